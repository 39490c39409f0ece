#include "core/kernels/integer_product.h"

#include <algorithm>

#include "core/cuda/memory.h"
#include "core/kernels/activation.h"
#include "core/kernels/integer_rows.h"
#include "core/kernels/tile.h"

namespace conclave::kernels {
namespace {

constexpr Index kPanel = IntegerWeights::kPanel, kQuad = IntegerWeights::kQuad;
// Per task: rows whose integers stay in the second-level cache while panels are processed one after another,
// and panels whose sums, for kSumRows rows, stay in the first-level cache.
constexpr Index kTaskRows = 256, kTaskPanels = 8, kSumRows = 32;

void expect_levels(const char* operation, QuantLevels levels) {
  require(levels.lowest >= 0 && levels.highest <= 255 && levels.lowest < levels.highest,
          "{}: levels from {} to {} do not lie in [0, 255]", operation, levels.lowest, levels.highest);
}

void expect_weight_levels(const char* operation, QuantLevels levels) {
  require(levels.lowest >= -127 && levels.highest <= 127,
          "{}: levels from {} to {} do not lie in [-127, 127]", operation, levels.lowest, levels.highest);
}

void expect_rows(const char* operation, const IntegerRows& x, Index rows, Index row_bytes) {
  expect(operation, "integers", x.values, {rows, row_bytes}, IntegerRows::dtype(x.values.device()));
  const Index scales = x.scale.numel() == 1 ? 1 : rows;
  expect(operation, "scale", x.scale, {scales}, DType::f32);
  expect(operation, "zero_point", x.zero_point, {scales}, DType::f32);
}

Index step_of(const IntegerRows& x) { return x.scale.numel() == 1 ? 0 : 1; }

void quantize(const char* operation, const Tensor& x, QuantLevels levels, const IntegerRows& to,
              bool own_ranges) {
  expect_rank(operation, "x", x, 2);
  const Index rows = x.size(0), in = x.size(1), row_bytes = IntegerWeights::row_bytes(in);
  expect(operation, "x", x, {rows, in}, DType::f32);
  expect_levels(operation, levels);
  expect_rows(operation, to, rows, row_bytes);
  if constexpr (kBuiltWithCuda)
    if (on_cuda(operation, x, to.values, to.scale, to.zero_point))
      return own_ranges ? cuda::quantize_rows(x, levels, to) : cuda::quantize_by(x, levels, to);
  const float* px = x.data<float>();
  float *scales = to.scale.data<float>(), *zeros = to.zero_point.data<float>();
  auto* values = to.values.data<std::uint8_t>();
  const Index step = own_ranges ? 1 : step_of(to);
  const integer_rows::Loops& loops = integer_rows::loops();
  // Ranges and rounding take several times as long as a simple operation on each element.
#pragma omp parallel for schedule(static) if (4 * x.numel() > kParallelElements)
  for (Index row = 0; row < rows; ++row) {
    const float* from = px + row * in;
    if (own_ranges) {
      const auto [low, high] = loops.range(from, in);
      scales[row] = range_scale(low, high, levels, zeros[row]);  // the zero point of NaN is 0
      if (std::isnan(low)) scales[row] = low;
    }
    std::uint8_t* out = values + row * row_bytes;
    loops.quantize(from, in, scales[row * step], zeros[row * step], levels, out);
    std::fill(out + in, out + row_bytes, std::uint8_t{0});
  }
}

integer_tiles::SumTile tile_of(IntegerPath path, [[maybe_unused]] std::int32_t highest) {
#ifdef CONCLAVE_WIDE_VECTORS
  if (path == IntegerPath::vnni) return integer_tiles::vnni;
#endif
#ifdef CONCLAVE_AVX2_INTEGERS
  if (path == IntegerPath::avx2)
    return highest <= 127 ? integer_tiles::avx2_7_bits : integer_tiles::avx2_8_bits;
#endif
  (void)path;
  return integer_tiles::portable;
}

void expect_product(const char* operation, const IntegerRows& x, RowOffsets offsets,
                    const IntegerWeights& weights, const Tensor& bias) {
  const Index rows = x.values.size(0);
  expect_rows(operation, x, rows, weights.row_bytes());
  expect_offsets(operation, "offsets", offsets, weights.groups, rows);
  if (bias.defined()) expect(operation, "bias", bias, {weights.groups, weights.out}, DType::f32);
}

// Computes the channels of a row from `first` on as real numbers, with bias and activation. They are written
// to place(row, first, scratch); then finish(row, first, count, values) is called.
template <class Place, class Finish>
void product(const IntegerRows& x, std::int32_t highest, RowOffsets offsets, const IntegerWeights& weights,
             const Tensor& bias, Activation activation, IntegerPath path, Place place, Finish finish) {
  const Index rows = x.values.size(0), out = weights.out, panels = weights.panels(), quads = weights.quads();
  const auto tile = tile_of(path, highest);
  const integer_rows::Loops& loops = integer_rows::loops();
  const auto* px = x.values.data<std::uint8_t>();
  const auto* pw = weights.values.data<std::int8_t>();
  const float *row_scales = x.scale.data<float>(), *zeros = x.zero_point.data<float>();
  const Index step = step_of(x), row_bytes = weights.row_bytes();

  struct Task {
    Index group, begin, end;
  };
  const Index cuts = (panels + kTaskPanels - 1) / kTaskPanels;
  // With few rows, tasks are smaller, so that every thread gets some.
  const Index even = (rows * cuts + 4 * omp_get_max_threads() - 1) / (4 * omp_get_max_threads());
  const Index most = std::clamp((even + kSumRows - 1) / kSumRows * kSumRows, kSumRows, kTaskRows);
  thread_local std::vector<Task> tasks;  // kept, because inference allocates nothing
  tasks.clear();
  for (std::size_t g = 0; g + 1 < offsets.size(); ++g)
    for (Index begin = offsets[g]; begin < offsets[g + 1]; begin += most)
      tasks.push_back({static_cast<Index>(g), begin, std::min(begin + most, offsets[g + 1])});
  const std::span<const Task> all = tasks;
  const Index count = static_cast<Index>(all.size()) * cuts;
#pragma omp parallel for schedule(dynamic) if (rows * out * weights.in > kParallelElements)
  for (Index number = 0; number < count; ++number) {
    const auto [group, begin, end] = all[static_cast<std::size_t>(number / cuts)];
    const Index first_panel = number % cuts * kTaskPanels, some = std::min(kTaskPanels, panels - first_panel),
                first = first_panel * kPanel, channels = std::min(some * kPanel, out - first);
    const float *scales = weights.scale.data<float>() + group * panels * kPanel + first,
                *biases = bias.defined() ? bias.data<float>() + group * out + first : nullptr;
    const std::int32_t* weight_sums = weights.sums.data<std::int32_t>() + group * panels * kPanel + first;
    alignas(64) std::int32_t sums[kSumRows * kTaskPanels * kPanel];
    alignas(64) float scratch[kTaskPanels * kPanel];
    for (Index row = begin; row < end; row += kSumRows) {
      const Index now = std::min(kSumRows, end - row);
      tile(now, some, quads, px + row * row_bytes, row_bytes,
           pw + (group * panels + first_panel) * quads * kPanel * kQuad, sums, kTaskPanels * kPanel);
      for (Index r = 0; r < now; ++r) {
        const std::int32_t* of_row = sums + r * kTaskPanels * kPanel;
        const float scale = row_scales[(row + r) * step];
        const auto zero = static_cast<std::int32_t>(zeros[(row + r) * step]);
        float* values = place(row + r, first, scratch);
        loops.real({of_row, weight_sums, scales, biases}, scale, zero, channels, values);
        if (activation != Activation::none) activate(values, channels, activation, nullptr);
        finish(row + r, first, channels, values);
      }
    }
  }
}

}  // namespace

IntegerWeights IntegerWeights::empty(Index groups, Index out, Index in, Device device) {
  // A sum has 32 bits, and the correction for a zero point may be as large again.
  require(in <= kMostInputs, "integer weights: {} inputs may overflow a 32-bit sum; at most {} are possible",
          in, kMostInputs);
  IntegerWeights weights{groups, out, in, {}, {}, {}};
  const Index padded = weights.padded();
  if constexpr (kBuiltWithCuda)
    if (device == Device::cuda) {
      weights.values = conclave::cuda::empty_on_device({groups, padded, weights.row_bytes()}, DType::i8);
      weights.scale = conclave::cuda::empty_on_device({groups, padded});
      weights.sums = conclave::cuda::empty_on_device({groups, padded}, DType::i32);
      return weights;
    }
  require(device == Device::cpu, "integer weights: this build has no CUDA backend");
  weights.values = Tensor::zeros({groups, weights.panels(), weights.quads(), kPanel, kQuad}, DType::i8);
  weights.scale = Tensor::zeros({groups, padded});
  weights.sums = Tensor::zeros({groups, padded}, DType::i32);
  return weights;
}

void round_weights(const Tensor& weight, const Tensor& scale, QuantLevels levels, const Tensor& integers) {
  const char* operation = "round_weights";
  expect(operation, "weight", weight, weight.shape(), DType::f32);
  expect(operation, "integers", integers, weight.shape(), DType::i8);
  expect(operation, "scale", scale, {scale.numel()}, DType::f32);
  expect_weight_levels(operation, levels);
  const Index channels = scale.numel(), in = channels > 0 ? weight.numel() / channels : 0;
  require(channels * in == weight.numel(), "{}: {} channels do not divide {}", operation, channels,
          weight.shape());
  const QuantBounds<float> bounds(levels, 0);
#pragma omp parallel for schedule(static) if (weight.numel() > kParallelElements)
  for (Index channel = 0; channel < channels; ++channel) {
    const float* from = weight.data<float>() + channel * in;
    std::int8_t* to = integers.data<std::int8_t>() + channel * in;
    const float inverse = 1 / scale.data<float>()[channel];
    for (Index i = 0; i < in; ++i)
      to[i] = static_cast<std::int8_t>(bounds.integer(round_to_even(from[i] * inverse)));
  }
}

void pack_weights(const Tensor& weight, const Tensor& scale, QuantLevels levels, const IntegerWeights& to) {
  expect("pack_weights", "weight", weight, {to.groups, to.out, to.in}, DType::f32);
  expect("pack_weights", "scale", scale, {to.groups * to.out}, DType::f32);
  expect_weight_levels("pack_weights", levels);
  if constexpr (kBuiltWithCuda)
    if (on_cuda("pack_weights", weight, scale, to.values))
      return cuda::pack_weights(weight, scale, levels, to);
  const Tensor integers = Tensor::empty(weight.shape(), DType::i8);
  round_weights(weight, scale, levels, integers);
  const Index panels = to.panels(), quads = to.quads(), padded = to.padded();
#pragma omp parallel for schedule(static) if (weight.numel() > kParallelElements)
  for (Index channel = 0; channel < to.groups * to.out; ++channel) {
    const Index group = channel / to.out, c = channel % to.out;
    const std::int8_t* from = integers.data<std::int8_t>() + channel * to.in;
    std::int8_t* panel =
        to.values.data<std::int8_t>() + (group * panels + c / kPanel) * quads * kPanel * kQuad;
    std::int32_t sum = 0;
    for (Index i = 0; i < to.in; ++i) {
      panel[(i / kQuad * kPanel + c % kPanel) * kQuad + i % kQuad] = from[i];
      sum += from[i];
    }
    to.scale.data<float>()[group * padded + c] = scale.data<float>()[channel];
    to.sums.data<std::int32_t>()[group * padded + c] = sum;
  }
}

void quantize_rows(const Tensor& x, QuantLevels levels, const IntegerRows& to) {
  expect("quantize_rows", "scale", to.scale, {x.size(0)}, DType::f32);
  quantize("quantize_rows", x, levels, to, true);
}

void quantize_by(const Tensor& x, QuantLevels levels, const IntegerRows& to) {
  quantize("quantize_by", x, levels, to, false);
}

const std::vector<IntegerPath>& integer_paths() {
  static const std::vector<IntegerPath> paths = [] {
    std::vector<IntegerPath> found{IntegerPath::portable};
#ifdef CONCLAVE_AVX2_INTEGERS
    if (__builtin_cpu_supports("avx2")) found.push_back(IntegerPath::avx2);
#endif
#ifdef CONCLAVE_WIDE_VECTORS
    if (has_wide_vectors() && __builtin_cpu_supports("avx512vnni")) found.push_back(IntegerPath::vnni);
#endif
    return found;
  }();
  return paths;
}

const char* name_of(IntegerPath path) {
  return path == IntegerPath::portable ? "portable" : path == IntegerPath::avx2 ? "AVX2" : "AVX-512 VNNI";
}

void integer_tiles::portable(Index rows, Index panels, Index quads, const std::uint8_t* x, Index row_bytes,
                             const std::int8_t* weights, std::int32_t* sums, Index sum_row) {
  for (Index row = 0; row < rows; ++row)
    for (Index panel = 0; panel < panels; ++panel) {
      std::int32_t* to = sums + row * sum_row + panel * kPanel;
      std::fill_n(to, kPanel, 0);
      for (Index q = 0; q < quads; ++q) {
        const std::uint8_t* inputs = x + row * row_bytes + q * kQuad;
        const std::int8_t* four = weights + (panel * quads + q) * kPanel * kQuad;
        for (Index c = 0; c < kPanel; ++c)
          for (Index i = 0; i < kQuad; ++i) to[c] += inputs[i] * four[c * kQuad + i];
      }
    }
}

void integer_product(const IntegerRows& x, std::int32_t highest, RowOffsets offsets,
                     const IntegerWeights& weights, const Tensor& bias, Activation activation,
                     const Tensor& y, IntegerPath path) {
  const char* operation = "integer product";
  const Index out = weights.out;
  expect_product(operation, x, offsets, weights, bias);
  expect(operation, "y", y, {x.values.size(0), out}, DType::f32);
  if constexpr (kBuiltWithCuda)
    if (on_cuda(operation, y, x.values, x.scale, x.zero_point, weights.values, bias))
      return cuda::integer_product(x, highest, offsets, weights, bias, activation, y);
  float* py = y.data<float>();
  product(
      x, highest, offsets, weights, bias, activation, path,
      [&](Index row, Index first, float*) { return py + row * out + first; },
      [](Index, Index, Index, const float*) {});
}

void integer_product(const IntegerRows& x, std::int32_t highest, RowOffsets offsets,
                     const IntegerWeights& weights, const Tensor& bias, Activation activation,
                     const IntegerRows& next, QuantLevels levels, IntegerPath path) {
  const char* operation = "integer product";
  const Index row_bytes = IntegerWeights::row_bytes(weights.out), step = step_of(next);
  expect_product(operation, x, offsets, weights, bias);
  expect_levels(operation, levels);
  expect_rows(operation, next, x.values.size(0), row_bytes);
  if constexpr (kBuiltWithCuda)
    if (on_cuda(operation, next.values, next.scale, next.zero_point, x.values, x.scale, x.zero_point,
                weights.values, bias))
      return cuda::integer_product(x, highest, offsets, weights, bias, activation, next, levels);
  const float *scales = next.scale.data<float>(), *zeros = next.zero_point.data<float>();
  auto* to = next.values.data<std::uint8_t>();
  const integer_rows::Loops& loops = integer_rows::loops();
  product(
      x, highest, offsets, weights, bias, activation, path,
      [](Index, Index, float* scratch) { return scratch; },
      [&](Index row, Index first, Index channels, const float* values) {
        std::uint8_t* at = to + row * row_bytes + first;
        loops.quantize(values, channels, scales[row * step], zeros[row * step], levels, at);
        if (first + channels == weights.out)
          std::fill(at + channels, to + (row + 1) * row_bytes, std::uint8_t{0});
      });
}

}  // namespace conclave::kernels
