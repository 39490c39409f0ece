#include "core/kernels/cuda_range.h"
#include "core/kernels/quantized.h"

namespace conclave::kernels::cuda {
namespace {

// The scale of each row, or one for all.
template <class T>
struct Scales {
  const T *scale, *zero_point;
  Index step;
  __device__ T scale_of(Index row) const { return scale[row * step]; }
  __device__ QuantBounds<T> bounds_of(Index row, QuantLevels levels) const {
    return {levels, zero_point ? zero_point[row * step] : T(0)};
  }
};

template <class T>
Scales<T> scales_of(const Tensor& scale, const Tensor& zero_point) {
  return {scale.data<T>(), zero_point.defined() ? zero_point.data<T>() : nullptr, scale.numel() == 1 ? 0 : 1};
}

template <class T, int kWidth, int kTeam>
__global__ void __launch_bounds__(kBlock)
    row_ranges_kernel(Index rows, Index columns, const T* x, T* lowest, T* highest) {
  for_team_rows(rows, [&](Index row) {
    const T* values = x + row * columns;
    T low = columns > 0 ? values[0] : T(0), high = low;
    widen_to_row<kWidth, kTeam>(values, columns, low, high);
    if (threadIdx.x != 0) return;
    lowest[row] = low;
    highest[row] = high;
  });
}

template <class T>
struct RangeScales {
  const T *lowest, *highest;
  QuantLevels levels;
  T *scale, *zero_point;
  template <int kWidth>
  __device__ void at(Index i) const {
    scale[i] = range_scale(lowest[i], highest[i], levels, zero_point[i]);
  }
};

template <class T, int kWidth, int kTeam>
__global__ void __launch_bounds__(kBlock)
    fake_quantize_kernel(Index rows, Index columns, const T* x, Scales<T> scales, QuantLevels levels, T* y) {
  for_team_rows(rows, [&](Index row) {
    const T step = scales.scale_of(row), inverse = T(1) / step;
    const QuantBounds<T> bounds = scales.bounds_of(row, levels);
    for_columns<kWidth, kTeam>(columns, [&](Index i) {
      Pack<T, kWidth> value = load<kWidth>(x + row * columns + i);
      for (int j = 0; j < kWidth; ++j)
        value.at[j] = step * bounds.clamp(round_to_even(value.at[j] * inverse));
      store<kWidth>(y + row * columns + i, value);
    });
  });
}

template <class T, int kWidth, int kTeam>
__global__ void __launch_bounds__(kBlock)
    fake_quantize_backward_kernel(Index rows, Index columns, const T* dy, const T* x, Scales<T> scales,
                                  QuantLevels levels, T* dx, Write mode, T* dscale) {
  for_team_rows(rows, [&](Index row) {
    const T inverse = T(1) / scales.scale_of(row);
    const QuantBounds<T> bounds = scales.bounds_of(row, levels);
    T sum = 0;
    for_columns<kWidth, kTeam>(columns, [&](Index i) {
      Pack<T, kWidth> up = load<kWidth>(dy + row * columns + i);
      const Pack<T, kWidth> value = load<kWidth>(x + row * columns + i);
      for (int j = 0; j < kWidth; ++j) {
        const T steps = value.at[j] * inverse, rounded = round_to_even(steps);
        const bool within = bounds.contain(rounded);
        sum += up.at[j] * (within ? rounded - steps : bounds.clamp(rounded));
        up.at[j] = within ? up.at[j] : T(0);
      }
      if (dx) write_pack<kWidth>(dx + row * columns + i, up, mode);
    });
    if (!dscale) return;
    sum = team_sum<kTeam>(sum);
    if (threadIdx.x == 0) dscale[row] = sum;
  });
}

}  // namespace

void row_ranges(const Tensor& x, const Tensor& lowest, const Tensor& highest) {
  const Index rows = x.size(0), columns = x.size(1);
  if (rows == 0) return;
  for_floating(x.dtype(), "row_ranges", [&]<class T>(T) {
    for_team<T>(columns, {x.raw()}, [&]<int kWidth, int kTeam>() {
      launch("row_ranges", row_ranges_kernel<T, kWidth, kTeam>, team_shape<kTeam>(rows), rows, columns,
             x.data<T>(), lowest.data<T>(), highest.data<T>());
    });
  });
}

void range_scales(const Tensor& lowest, const Tensor& highest, QuantLevels levels, const Tensor& scale,
                  const Tensor& zero_point) {
  for_floating(lowest.dtype(), "range_scales", [&]<class T>(T) {
    for_items(
        "range_scales", lowest.numel(),
        RangeScales<T>{lowest.data<T>(), highest.data<T>(), levels, scale.data<T>(), zero_point.data<T>()});
  });
}

void fake_quantize(const Tensor& x, const Tensor& scale, const Tensor& zero_point, QuantLevels levels,
                   const Tensor& y) {
  const Index rows = x.size(0), columns = x.size(1);
  if (x.numel() == 0) return;
  for_floating(x.dtype(), "fake_quantize", [&]<class T>(T) {
    for_team<T>(columns, {x.raw(), y.raw()}, [&]<int kWidth, int kTeam>() {
      launch("fake_quantize", fake_quantize_kernel<T, kWidth, kTeam>, team_shape<kTeam>(rows), rows, columns,
             x.data<T>(), scales_of<T>(scale, zero_point), levels, y.data<T>());
    });
  });
}

void fake_quantize_backward(const Tensor& dy, const Tensor& x, const Tensor& scale, const Tensor& zero_point,
                            QuantLevels levels, const Tensor& dx, Write write, const Tensor& dscale) {
  const Index rows = x.size(0), columns = x.size(1);
  if (rows == 0) return;
  for_floating(x.dtype(), "fake_quantize backward", [&]<class T>(T) {
    const auto pointer = [](const Tensor& tensor) { return tensor.defined() ? tensor.data<T>() : nullptr; };
    for_team<T>(columns, {dy.raw(), x.raw(), dx.raw()}, [&]<int kWidth, int kTeam>() {
      launch("fake_quantize backward", fake_quantize_backward_kernel<T, kWidth, kTeam>,
             team_shape<kTeam>(rows), rows, columns, dy.data<T>(), x.data<T>(),
             scales_of<T>(scale, zero_point), levels, pointer(dx), write, pointer(dscale));
    });
  });
}

}  // namespace conclave::kernels::cuda
