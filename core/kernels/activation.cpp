#include "core/kernels/activation.h"

#include "core/kernels/activation_loops.h"
#include "core/kernels/chunks.h"
#include "core/kernels/tile.h"

namespace conclave::kernels {

template void activation_loops::run<float, 32>(float*, Index, Activation, float*);
template void activation_loops::run<double, 32>(double*, Index, Activation, double*);

void activate(float* values, Index count, Activation activation, float* derivative) {
#ifdef CONCLAVE_WIDE_VECTORS
  if (has_wide_vectors()) return activation_loops::run<float, 64>(values, count, activation, derivative);
#endif
  activation_loops::run<float, 32>(values, count, activation, derivative);
}
void activate(double* values, Index count, Activation activation, double* derivative) {
  activation_loops::run<double, 32>(values, count, activation, derivative);
}

void activation(const Tensor& x, Activation activation, const Tensor& y, const Tensor& derivative) {
  expect("activation", "x", x, x.shape(), x.dtype());
  expect("activation", "y", y, x.shape(), x.dtype());
  if (derivative.defined()) expect("activation", "derivative", derivative, x.shape(), x.dtype());
  if constexpr (kBuiltWithCuda)
    if (on_cuda("activation", x, y, derivative)) return cuda::activation(x, activation, y, derivative);
  for_floating(x.dtype(), "activation", [&]<class T>(T) {
    const T* px = x.data<T>();
    T *py = y.data<T>(), *pd = derivative.defined() ? derivative.data<T>() : nullptr;
    for_chunks(x.numel(), [&](Index begin, Index end) {
      if (py != px) std::copy(px + begin, px + end, py + begin);
      activate(py + begin, end - begin, activation, pd ? pd + begin : nullptr);
    });
  });
}

void multiply(const Tensor& a, const Tensor& b, const Tensor& c, Write write) {
  expect("multiply", "a", a, a.shape(), a.dtype());
  expect("multiply", "b", b, a.shape(), a.dtype());
  expect("multiply", "c", c, a.shape(), a.dtype());
  if constexpr (kBuiltWithCuda)
    if (on_cuda("multiply", a, b, c)) return cuda::multiply(a, b, c, write);
  for_floating(a.dtype(), "multiply", [&]<class T>(T) {
    const T *pa = a.data<T>(), *pb = b.data<T>();
    T* pc = c.data<T>();
    const T keep = write == Write::accumulate ? T(1) : T(0);
    for_chunks(a.numel(), [&](Index begin, Index end) {
      if (keep == T(0)) {
#pragma omp simd
        for (Index i = begin; i < end; ++i) pc[i] = pa[i] * pb[i];
      } else {
#pragma omp simd
        for (Index i = begin; i < end; ++i) pc[i] += pa[i] * pb[i];
      }
    });
  });
}

void add(const Tensor& a, const Tensor& b, const Tensor& c) {
  expect("add", "a", a, a.shape(), a.dtype());
  expect("add", "b", b, a.shape(), a.dtype());
  expect("add", "c", c, a.shape(), a.dtype());
  if constexpr (kBuiltWithCuda)
    if (on_cuda("add", a, b, c)) return cuda::add(a, b, c);
  for_floating(a.dtype(), "add", [&]<class T>(T) {
    const T *pa = a.data<T>(), *pb = b.data<T>();
    T* pc = c.data<T>();
    for_chunks(a.numel(), [&](Index begin, Index end) {
#pragma omp simd
      for (Index i = begin; i < end; ++i) pc[i] = pa[i] + pb[i];
    });
  });
}

void scale(const Tensor& a, double factor, const Tensor& c, Write write) {
  expect("scale", "a", a, a.shape(), a.dtype());
  expect("scale", "c", c, a.shape(), a.dtype());
  if constexpr (kBuiltWithCuda)
    if (on_cuda("scale", a, c)) return cuda::scale(a, factor, c, write);
  for_floating(a.dtype(), "scale", [&]<class T>(T) {
    const T* pa = a.data<T>();
    T* pc = c.data<T>();
    const T f = static_cast<T>(factor);
    for_chunks(a.numel(), [&](Index begin, Index end) {
      if (write == Write::assign) {
#pragma omp simd
        for (Index i = begin; i < end; ++i) pc[i] = f * pa[i];
      } else {
#pragma omp simd
        for (Index i = begin; i < end; ++i) pc[i] += f * pa[i];
      }
    });
  });
}

void scale_rows(const Tensor& x, std::span<const double> factors) {
  expect("scale_rows", "x", x, x.shape(), x.dtype());
  require(x.rank() > 0 && x.size(0) == static_cast<Index>(factors.size()),
          "scale_rows: {} factors for the rows of {}", factors.size(), x.shape());
  if constexpr (kBuiltWithCuda)
    if (on_cuda("scale_rows", x)) return cuda::scale_rows(x, factors);
  for (Index row = 0; row < x.size(0); ++row) {
    const Tensor one = x.rows(row, row + 1);
    scale(one, factors[static_cast<std::size_t>(row)], one);
  }
}

void swap(const Tensor& a, const Tensor& b) {
  expect("swap", "a", a, a.shape(), a.dtype());
  expect("swap", "b", b, a.shape(), a.dtype());
  if constexpr (kBuiltWithCuda)
    if (on_cuda("swap", a, b)) return cuda::swap(a, b);
  for_floating(a.dtype(), "swap", [&]<class T>(T) {
    T *pa = a.data<T>(), *pb = b.data<T>();
    for_chunks(a.numel(),
               [&](Index begin, Index end) { std::swap_ranges(pa + begin, pa + end, pb + begin); });
  });
}

}  // namespace conclave::kernels
