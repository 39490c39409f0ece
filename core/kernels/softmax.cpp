#include "core/kernels/softmax.h"

#include <algorithm>
#include <cmath>

#include "core/kernels/vector_math.h"

namespace conclave::kernels {
namespace {

// Writes softmax(in) to out and returns log sum exp.
template <class T>
T softmax_row(const T* in, T* out, Index columns) {
  T largest = in[0];
#pragma omp simd reduction(max : largest)
  for (Index i = 0; i < columns; ++i) largest = std::max(largest, in[i]);
  T sum = 0;
#pragma omp simd reduction(+ : sum)
  for (Index i = 0; i < columns; ++i) {
    out[i] = softmax_exp(in[i] - largest);
    sum += out[i];
  }
  const T inverse = T(1) / sum;
#pragma omp simd
  for (Index i = 0; i < columns; ++i) out[i] *= inverse;
  return largest + std::log(sum);
}

}  // namespace

void softmax(const Tensor& x, const Tensor& y, const Tensor& lse) {
  expect_rank("softmax", "x", x, 2);
  expect("softmax", "x", x, x.shape(), x.dtype());
  expect("softmax", "y", y, x.shape(), x.dtype());
  if (lse.defined()) expect("softmax", "lse", lse, {x.size(0)}, x.dtype());
  const Index rows = x.size(0), columns = x.size(1);
  require(columns > 0, "softmax: x {} has no columns", x.shape());
  if constexpr (kBuiltWithCuda)
    if (on_cuda("softmax", x, y, lse)) return cuda::softmax(x, y, lse);
  for_floating(x.dtype(), "softmax", [&]<class T>(T) {
    const T* px = x.data<T>();
    T *py = y.data<T>(), *pl = lse.defined() ? lse.data<T>() : nullptr;
#pragma omp parallel for schedule(static) if (x.numel() > kParallelElements)
    for (Index row = 0; row < rows; ++row) {
      const T value = softmax_row(px + row * columns, py + row * columns, columns);
      if (pl) pl[row] = value;
    }
  });
}

void softmax_backward(const Tensor& dy, const Tensor& y, const Tensor& dx, Write mode) {
  expect_rank("softmax backward", "y", y, 2);
  expect("softmax backward", "y", y, y.shape(), y.dtype());
  expect("softmax backward", "dy", dy, y.shape(), y.dtype());
  expect("softmax backward", "dx", dx, y.shape(), y.dtype());
  const Index rows = y.size(0), columns = y.size(1);
  if constexpr (kBuiltWithCuda)
    if (on_cuda("softmax backward", dy, y, dx)) return cuda::softmax_backward(dy, y, dx, mode);
  for_floating(y.dtype(), "softmax backward", [&]<class T>(T) {
    const T *pdy = dy.data<T>(), *py = y.data<T>();
    T* pdx = dx.data<T>();
#pragma omp parallel for schedule(static) if (y.numel() > kParallelElements)
    for (Index row = 0; row < rows; ++row) {
      const T *up = pdy + row * columns, *p = py + row * columns;
      T dot = 0;
#pragma omp simd reduction(+ : dot)
      for (Index i = 0; i < columns; ++i) dot += up[i] * p[i];
      for (Index i = 0; i < columns; ++i) write(pdx[row * columns + i], p[i] * (up[i] - dot), mode);
    }
  });
}

void cross_entropy(const Tensor& logits, const Tensor& labels, double smoothing, const Tensor& losses,
                   const Tensor& probabilities, const Tensor& correct) {
  expect_rank("cross_entropy", "logits", logits, 2);
  expect("cross_entropy", "logits", logits, logits.shape(), logits.dtype());
  const Index rows = logits.size(0), classes = logits.size(1);
  require(classes > 0, "cross_entropy: logits {} have no classes", logits.shape());
  expect("cross_entropy", "losses", losses, {rows}, logits.dtype());
  expect("cross_entropy", "probabilities", probabilities, logits.shape(), logits.dtype());
  expect("cross_entropy", "correct", correct, {rows}, DType::u8);
  expect_labels("cross_entropy", labels, rows, classes);
  if constexpr (kBuiltWithCuda)
    if (on_cuda("cross_entropy", logits, labels, losses, probabilities, correct))
      return cuda::cross_entropy(logits, labels, smoothing, losses, probabilities, correct);
  for_floating(logits.dtype(), "cross_entropy", [&]<class T>(T) {
    const T* px = logits.data<T>();
    const std::int32_t* pl = labels.data<std::int32_t>();
    T *ploss = losses.data<T>(), *pp = probabilities.data<T>();
    std::uint8_t* pc = correct.data<std::uint8_t>();
    const T s = static_cast<T>(smoothing);
#pragma omp parallel for schedule(static) if (logits.numel() > kParallelElements)
    for (Index row = 0; row < rows; ++row) {
      const T* in = px + row * classes;
      const T lse = softmax_row(in, pp + row * classes, classes);
      T sum = 0;
      for (Index i = 0; i < classes; ++i) sum += in[i];
      const T target = in[pl[row]];
      // Without smoothing, an impossible class, with a logit of -inf, must not affect the loss.
      const T smoothed = s > T(0) ? s / static_cast<T>(classes) * sum : T(0);
      ploss[row] = lse - (T(1) - s) * target - smoothed;
      // If a logit is NaN, so is lse, and no label is right.
      pc[row] = !std::isnan(lse) && std::max_element(in, in + classes) - in == pl[row];
    }
  });
}

void cross_entropy_backward(const Tensor& dlosses, const Tensor& probabilities, const Tensor& labels,
                            double smoothing, const Tensor& dlogits, Write mode) {
  const Index rows = probabilities.size(0), classes = probabilities.size(1);
  expect("cross_entropy backward", "dlosses", dlosses, {rows}, probabilities.dtype());
  expect("cross_entropy backward", "dlogits", dlogits, probabilities.shape(), probabilities.dtype());
  if constexpr (kBuiltWithCuda)
    if (on_cuda("cross_entropy backward", dlosses, probabilities, labels, dlogits))
      return cuda::cross_entropy_backward(dlosses, probabilities, labels, smoothing, dlogits, mode);
  for_floating(probabilities.dtype(), "cross_entropy backward", [&]<class T>(T) {
    const T *up = dlosses.data<T>(), *pp = probabilities.data<T>();
    const std::int32_t* pl = labels.data<std::int32_t>();
    T* out = dlogits.data<T>();
    const T s = static_cast<T>(smoothing), rest = s / static_cast<T>(classes);
#pragma omp parallel for schedule(static) if (probabilities.numel() > kParallelElements)
    for (Index row = 0; row < rows; ++row)
      for (Index i = 0; i < classes; ++i)
        write(out[row * classes + i],
              up[row] * (pp[row * classes + i] - rest - (i == pl[row] ? T(1) - s : T(0))), mode);
  });
}

}  // namespace conclave::kernels
