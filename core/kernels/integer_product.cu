#include "core/kernels/integer_product.h"

#include "core/cuda/blas.h"
#include "core/kernels/activated.h"
#include "core/kernels/cuda_groups.h"
#include "core/kernels/cuda_range.h"
#include "core/kernels/quantized.h"

namespace conclave::kernels::cuda {
namespace {

using conclave::cuda::MatrixProduct;
using conclave::cuda::multiply;
using conclave::cuda::Scratch;

/// The scale and zero point of each row, or one for all.
struct RowScales {
  const float *scale, *zero_point;
  Index step;

  explicit RowScales(const IntegerRows& rows)
      : scale(rows.scale.data<float>()),
        zero_point(rows.zero_point.data<float>()),
        step(rows.scale.numel() == 1 ? 0 : 1) {}
};

template <int kWidth>
__device__ Pack<std::int8_t, kWidth> to_integers(const Pack<float, kWidth>& values, float inverse,
                                                 const QuantBounds<float>& bounds, std::int32_t zero) {
  Pack<std::int8_t, kWidth> integers;
  for (int j = 0; j < kWidth; ++j)
    integers.at[j] = static_cast<std::int8_t>(bounds.integer(round_to_even(values.at[j] * inverse)) + zero);
  return integers;
}

// Writes zeros from `begin` to the end of a row.
template <int kTeam>
__device__ void end_row(std::int8_t* row, Index begin, Index end) {
  for (Index i = begin + threadIdx.x; i < end; i += kTeam) row[i] = 0;
}

// kOwn: with scales from each row's own range; otherwise with the given scales.
template <bool kOwn, int kWidth, int kTeam>
__global__ void __launch_bounds__(kBlock)
    quantize_kernel(Index rows, Index in, Index row_bytes, const float* x, QuantLevels levels, Index step,
                    float* scales, float* zero_points, std::int8_t* to) {
  for_team_rows(rows, [&](Index row) {
    const float* const values = x + row * in;
    float scale, zero_point, nothing = 0;  // `nothing` becomes NaN where a value is not finite
    if constexpr (kOwn) {
      float low = 0, high = 0;
      widen_to_row<kWidth, kTeam>(values, in, low, high);
      scale = range_scale(low, high, levels, zero_point);
      if (zero_point != zero_point) zero_point = 0;  // of an infinite range; integers need one
    } else {
      scale = scales[row * step];
      zero_point = zero_points[row * step];
    }
    const float inverse = 1 / scale;
    const QuantBounds<float> bounds(levels, zero_point);
    const std::int32_t zero = static_cast<std::int32_t>(zero_point) - signed_shift(levels.highest);
    std::int8_t* const out = to + row * row_bytes;
    for_columns<kWidth, kTeam>(in, [&](Index i) {
      const Pack<float, kWidth> some = load<kWidth>(values + i);
      store<kWidth>(out + i, to_integers<kWidth>(some, inverse, bounds, zero));
      if constexpr (kOwn)
        for (int j = 0; j < kWidth; ++j)
          if (!(std::fabs(some.at[j]) < __builtin_inff())) nothing = __builtin_nanf("");
    });
    end_row<kTeam>(out, in, row_bytes);
    if constexpr (kOwn) {
      nothing = team_sum<kTeam>(nothing);
      if (threadIdx.x == 0) {
        scales[row] = scale + nothing;
        zero_points[row] = zero_point;
      }
    }
  });
}

// Packs the channels of all groups, and the padding of each group up to `padded` channels.
template <int kWidth, int kTeam>
__global__ void __launch_bounds__(kBlock)
    pack_kernel(Index groups, Index out, Index padded, Index in, Index row_bytes, const float* weight,
                const float* scale, QuantLevels levels, std::int8_t* to, float* scales, std::int32_t* sums) {
  const QuantBounds<float> bounds(levels, 0);
  for_team_rows(groups * padded, [&](Index row) {
    const Index group = row / padded, c = row % padded, channel = group * out + c, there = c < out ? in : 0;
    const float step = there > 0 ? scale[channel] : 0.0F;
    std::int32_t sum = 0;
    for_columns<kWidth, kTeam>(there, [&](Index i) {
      const Pack<std::int8_t, kWidth> integers =
          to_integers<kWidth>(load<kWidth>(weight + channel * in + i), 1 / step, bounds, 0);
      for (int j = 0; j < kWidth; ++j) sum += integers.at[j];
      store<kWidth>(to + row * row_bytes + i, integers);
    });
    end_row<kTeam>(to + row * row_bytes, there, row_bytes);
    sum = team_sum<kTeam>(sum);
    if (threadIdx.x != 0) return;
    scales[row] = step;
    sums[row] = sum;
  });
}

template <bool kOwn>
void quantize(const char* operation, const Tensor& x, QuantLevels levels, const IntegerRows& to) {
  const Index rows = x.size(0), in = x.size(1);
  if (rows == 0) return;
  for_team<float>(in, {x.raw(), to.values.raw()}, [&]<int kWidth, int kTeam>() {
    launch(operation, quantize_kernel<kOwn, kWidth, kTeam>, team_shape<kTeam>(rows), rows, in,
           IntegerWeights::row_bytes(in), x.data<float>(), levels, Index{to.scale.numel() == 1 ? 0 : 1},
           to.scale.data<float>(), to.zero_point.data<float>(), to.values.data<std::int8_t>());
  });
}

/// The result of a product: y, or the integers for the next product.
struct Reals {
  float* y;
  Index out;

  template <int kWidth, int kTeam>
  struct Row {
    float* to;
    __device__ Row(const Reals& reals, Index row) : to(reals.y + row * reals.out) {}
    __device__ void write(Index column, const Pack<float, kWidth>& values) const {
      store<kWidth>(to + column, values);
    }
    __device__ void end() const {}
  };
};

struct Integers {
  RowScales scales;
  QuantLevels levels;
  std::int8_t* values;
  Index out, row_bytes;

  template <int kWidth, int kTeam>
  struct Row {
    const Integers& next;
    std::int8_t* to;
    float inverse;
    QuantBounds<float> bounds;
    std::int32_t zero;
    __device__ Row(const Integers& integers, Index row)
        : next(integers),
          to(integers.values + row * integers.row_bytes),
          inverse(1 / integers.scales.scale[row * integers.scales.step]),
          bounds(integers.levels, integers.scales.zero_point[row * integers.scales.step]),
          zero(static_cast<std::int32_t>(integers.scales.zero_point[row * integers.scales.step]) -
               signed_shift(integers.levels.highest)) {}
    __device__ void write(Index column, const Pack<float, kWidth>& values) const {
      store<kWidth>(to + column, to_integers<kWidth>(values, inverse, bounds, zero));
    }
    __device__ void end() const { end_row<kTeam>(to, next.out, next.row_bytes); }
  };
};

struct Channels {
  const float* scales;
  const std::int32_t* sums;
  Index padded;
  const float* bias;
  Index out;
};

// Converts the sums [rows, padded] to real numbers, with bias and activation.
template <Activation kActivation, int kWidth, int kTeam, class Result>
__global__ void __launch_bounds__(kBlock)
    requantize_kernel(const __grid_constant__ Groups groups, const std::int32_t* sums, RowScales rows,
                      std::int32_t below, Channels channels, Result result) {
  for_team_rows(groups.end() - groups.begin(), [&](Index i) {
    const Index row = groups.begin() + i, group = groups.first + groups.of(row);
    const float scale = rows.scale[row * rows.step];
    const std::int32_t zero = static_cast<std::int32_t>(rows.zero_point[row * rows.step]) - below;
    const typename Result::template Row<kWidth, kTeam> to(result, row);
    for_columns<kWidth, kTeam>(channels.out, [&](Index column) {
      const Index at = group * channels.padded + column;
      const Pack<std::int32_t, kWidth> sum = load<kWidth>(sums + row * channels.padded + column),
                                       of_weights = load<kWidth>(channels.sums + at);
      const Pack<float, kWidth> steps = load<kWidth>(channels.scales + at);
      Pack<float, kWidth> values, bias{};
      if (channels.bias) bias = load<kWidth>(channels.bias + group * channels.out + column);
      for (int j = 0; j < kWidth; ++j) {
        float slope;
        values.at[j] = activated<kActivation>(
            static_cast<float>(sum.at[j] - zero * of_weights.at[j]) * (scale * steps.at[j]) + bias.at[j],
            slope);
      }
      to.write(column, values);
    });
    to.end();
  });
}

template <class Result>
void product(const IntegerRows& x, std::int32_t highest, RowOffsets offsets, const IntegerWeights& weights,
             const Tensor& bias, Activation activation, const void* to, const Result& result) {
  const char* operation = "integer product";
  const Index rows = x.values.size(0), row_bytes = weights.row_bytes(), padded = weights.padded();
  if (rows == 0 || weights.out == 0) return;
  Scratch scratch;
  std::int32_t* const sums = scratch.array<std::int32_t>(rows * padded);
  for_groups(offsets, [&](Index group, Index first, Index count) {
    multiply(operation,
             MatrixProduct<std::int8_t, std::int32_t>{
                 .m = count,
                 .n = padded,
                 .k = weights.in > 0 ? row_bytes : 0,
                 .a = {x.values.data<std::int8_t>() + first * row_bytes, row_bytes},
                 .b = {weights.values.data<std::int8_t>() + group * padded * row_bytes, row_bytes, true},
                 .c = sums + first * padded,
                 .c_stride = padded});
  });
  const float* const biases = bias.defined() ? bias.data<float>() : nullptr;
  const Channels channels{weights.scale.data<float>(), weights.sums.data<std::int32_t>(), padded, biases,
                          weights.out};
  for_runs(offsets, [&](const Groups& run) {
    for_team<float>(weights.out, {biases, to}, [&]<int kWidth, int kTeam>() {
      for_activation(activation, [&]<Activation kActivation>() {
        launch(operation, requantize_kernel<kActivation, kWidth, kTeam, Result>,
               team_shape<kTeam>(run.end() - run.begin()), run, sums, RowScales(x), signed_shift(highest),
               channels, result);
      });
    });
  });
}

}  // namespace

void pack_weights(const Tensor& weight, const Tensor& scale, QuantLevels levels, const IntegerWeights& to) {
  const Index rows = to.groups * to.padded();
  if (rows == 0) return;
  for_team<float>(to.in, {weight.raw(), to.values.raw()}, [&]<int kWidth, int kTeam>() {
    launch("pack_weights", pack_kernel<kWidth, kTeam>, team_shape<kTeam>(rows), to.groups, to.out,
           to.padded(), to.in, to.row_bytes(), weight.data<float>(), scale.data<float>(), levels,
           to.values.data<std::int8_t>(), to.scale.data<float>(), to.sums.data<std::int32_t>());
  });
}

void quantize_rows(const Tensor& x, QuantLevels levels, const IntegerRows& to) {
  quantize<true>("quantize_rows", x, levels, to);
}

void quantize_by(const Tensor& x, QuantLevels levels, const IntegerRows& to) {
  quantize<false>("quantize_by", x, levels, to);
}

void integer_product(const IntegerRows& x, std::int32_t highest, RowOffsets offsets,
                     const IntegerWeights& weights, const Tensor& bias, Activation activation,
                     const Tensor& y) {
  product(x, highest, offsets, weights, bias, activation, y.raw(), Reals{y.data<float>(), weights.out});
}

void integer_product(const IntegerRows& x, std::int32_t highest, RowOffsets offsets,
                     const IntegerWeights& weights, const Tensor& bias, Activation activation,
                     const IntegerRows& next, QuantLevels levels) {
  auto* const values = next.values.data<std::int8_t>();
  product(x, highest, offsets, weights, bias, activation, values,
          Integers{RowScales(next), levels, values, weights.out, IntegerWeights::row_bytes(weights.out)});
}

}  // namespace conclave::kernels::cuda
