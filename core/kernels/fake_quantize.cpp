#include "core/kernels/fake_quantize.h"

#include "core/kernels/quantized.h"

namespace conclave::kernels {
namespace {

void expect_scales(const char* operation, const Tensor& x, const Tensor& scale, const Tensor& zero_point,
                   QuantLevels levels) {
  expect_rank(operation, "x", x, 2);
  expect(operation, "x", x, x.shape(), x.dtype());
  const Index scales = scale.numel() == 1 ? 1 : x.size(0);
  expect(operation, "scale", scale, {scales}, x.dtype());
  if (zero_point.defined()) expect(operation, "zero_point", zero_point, {scales}, x.dtype());
  require(levels.lowest < levels.highest,
          "{}: there are no levels from {} to {}; the lowest must be below the highest", operation,
          levels.lowest, levels.highest);
}

// The scales of rows, also if all rows share one.
template <class T>
struct Scales {
  const T *scale, *zero_point;
  Index step;
  Scales(const Tensor& scales, const Tensor& zero_points)
      : scale(scales.data<T>()),
        zero_point(zero_points.defined() ? zero_points.data<T>() : nullptr),
        step(scales.numel() == 1 ? 0 : 1) {}
  T scale_of(Index row) const { return scale[row * step]; }
  QuantBounds<T> bounds_of(Index row, QuantLevels levels) const {
    return {levels, zero_point ? zero_point[row * step] : T(0)};
  }
};

}  // namespace

void row_ranges(const Tensor& x, const Tensor& lowest, const Tensor& highest) {
  const char* operation = "row_ranges";
  expect_rank(operation, "x", x, 2);
  const Index rows = x.size(0), columns = x.size(1);
  expect(operation, "x", x, x.shape(), x.dtype());
  expect(operation, "lowest", lowest, {rows}, x.dtype());
  expect(operation, "highest", highest, {rows}, x.dtype());
  if constexpr (kBuiltWithCuda)
    if (on_cuda(operation, x, lowest, highest)) return cuda::row_ranges(x, lowest, highest);
  for_floating(x.dtype(), operation, [&]<class T>(T) {
    const T* px = x.data<T>();
    T *pl = lowest.data<T>(), *ph = highest.data<T>();
#pragma omp parallel for schedule(static) if (x.numel() > kParallelElements)
    for (Index row = 0; row < rows; ++row) {
      const T* values = px + row * columns;
      T low = columns > 0 ? values[0] : T(0), high = low;
#pragma omp simd reduction(min : low) reduction(max : high)
      for (Index i = 0; i < columns; ++i) {
        low = values[i] < low ? values[i] : low;
        high = values[i] > high ? values[i] : high;
      }
      pl[row] = low;
      ph[row] = high;
    }
  });
}

void range_scales(const Tensor& lowest, const Tensor& highest, QuantLevels levels, const Tensor& scale,
                  const Tensor& zero_point) {
  const char* operation = "range_scales";
  expect_rank(operation, "lowest", lowest, 1);
  for (const auto& [name, tensor] :
       {std::pair{"highest", &highest}, {"scale", &scale}, {"zero_point", &zero_point}})
    expect(operation, name, *tensor, lowest.shape(), lowest.dtype());
  if constexpr (kBuiltWithCuda)
    if (on_cuda(operation, lowest, highest, scale, zero_point))
      return cuda::range_scales(lowest, highest, levels, scale, zero_point);
  for_floating(lowest.dtype(), operation, [&]<class T>(T) {
    const T *pl = lowest.data<T>(), *ph = highest.data<T>();
    T *ps = scale.data<T>(), *pz = zero_point.data<T>();
    for (Index i = 0; i < lowest.numel(); ++i) ps[i] = range_scale(pl[i], ph[i], levels, pz[i]);
  });
}

void fake_quantize(const Tensor& x, const Tensor& scale, const Tensor& zero_point, QuantLevels levels,
                   const Tensor& y) {
  const char* operation = "fake_quantize";
  expect_scales(operation, x, scale, zero_point, levels);
  expect(operation, "y", y, x.shape(), x.dtype());
  if constexpr (kBuiltWithCuda)
    if (on_cuda(operation, x, scale, zero_point, y))
      return cuda::fake_quantize(x, scale, zero_point, levels, y);
  const Index rows = x.size(0), columns = x.size(1);
  for_floating(x.dtype(), operation, [&]<class T>(T) {
    const T* px = x.data<T>();
    T* py = y.data<T>();
    const Scales<T> scales(scale, zero_point);
#pragma omp parallel for schedule(static) if (x.numel() > kParallelElements)
    for (Index row = 0; row < rows; ++row) {
      const T step = scales.scale_of(row), inverse = T(1) / step;
      const QuantBounds<T> bounds = scales.bounds_of(row, levels);
#pragma omp simd
      for (Index i = row * columns; i < (row + 1) * columns; ++i)
        py[i] = step * bounds.clamp(round_to_even(px[i] * inverse));
    }
  });
}

void fake_quantize_backward(const Tensor& dy, const Tensor& x, const Tensor& scale, const Tensor& zero_point,
                            QuantLevels levels, const Tensor& dx, Write mode, const Tensor& dscale) {
  const char* operation = "fake_quantize backward";
  expect_scales(operation, x, scale, zero_point, levels);
  const Index rows = x.size(0), columns = x.size(1);
  expect(operation, "dy", dy, x.shape(), x.dtype());
  if (dx.defined()) expect(operation, "dx", dx, x.shape(), x.dtype());
  if (dscale.defined()) expect(operation, "dscale", dscale, {rows}, x.dtype());
  if constexpr (kBuiltWithCuda)
    if (on_cuda(operation, dy, x, scale, zero_point, dx, dscale))
      return cuda::fake_quantize_backward(dy, x, scale, zero_point, levels, dx, mode, dscale);
  for_floating(x.dtype(), operation, [&]<class T>(T) {
    const T *pdy = dy.data<T>(), *px = x.data<T>();
    T *pdx = dx.defined() ? dx.data<T>() : nullptr, *pds = dscale.defined() ? dscale.data<T>() : nullptr;
    const Scales<T> scales(scale, zero_point);
#pragma omp parallel for schedule(static) if (x.numel() > kParallelElements)
    for (Index row = 0; row < rows; ++row) {
      const T inverse = T(1) / scales.scale_of(row);
      const QuantBounds<T> bounds = scales.bounds_of(row, levels);
      const Index begin = row * columns, end = begin + columns;
      if (pds) {
        T sum = 0;
#pragma omp simd reduction(+ : sum)
        for (Index i = begin; i < end; ++i) {
          const T steps = px[i] * inverse, rounded = round_to_even(steps);
          sum += pdy[i] * (bounds.contain(rounded) ? rounded - steps : bounds.clamp(rounded));
        }
        pds[row] = sum;
      }
      if (!pdx) continue;
      for (Index i = begin; i < end; ++i)
        write(pdx[i], bounds.contain(round_to_even(px[i] * inverse)) ? pdy[i] : T(0), mode);
    }
  });
}

}  // namespace conclave::kernels
