#include "core/kernels/hinge.h"

namespace conclave::kernels {
namespace {

// How far a class's score falls short of its margin, at least 0 (NaN stays NaN), and the sign that the score
// should have.
template <class T>
struct Shortfall {
  T target, value;
  Shortfall(T score, bool label) : target(label ? T(1) : T(-1)), value(T(1) - target * score) {
    if (value < T(0)) value = T(0);
  }
};

}  // namespace

void squared_hinge(const Tensor& scores, const Tensor& labels, const Tensor& losses) {
  expect_rank("squared_hinge", "scores", scores, 2);
  expect("squared_hinge", "scores", scores, scores.shape(), scores.dtype());
  const Index rows = scores.size(0), classes = scores.size(1);
  require(classes > 0, "squared_hinge: scores {} have no classes", scores.shape());
  expect("squared_hinge", "losses", losses, {rows}, scores.dtype());
  expect_labels("squared_hinge", labels, rows, classes);
  if constexpr (kBuiltWithCuda)
    if (on_cuda("squared_hinge", scores, labels, losses)) return cuda::squared_hinge(scores, labels, losses);
  for_floating(scores.dtype(), "squared_hinge", [&]<class T>(T) {
    const T* ps = scores.data<T>();
    const std::int32_t* pl = labels.data<std::int32_t>();
    T* ploss = losses.data<T>();
#pragma omp parallel for schedule(static) if (scores.numel() > kParallelElements)
    for (Index row = 0; row < rows; ++row) {
      T sum = 0;
      for (Index c = 0; c < classes; ++c) {
        const T value = Shortfall<T>(ps[row * classes + c], c == pl[row]).value;
        sum += value * value;
      }
      ploss[row] = sum / static_cast<T>(classes);
    }
  });
}

void squared_hinge_backward(const Tensor& dlosses, const Tensor& scores, const Tensor& labels,
                            const Tensor& dscores, Write mode) {
  const Index rows = scores.size(0), classes = scores.size(1);
  expect("squared_hinge backward", "scores", scores, {rows, classes}, scores.dtype());
  expect("squared_hinge backward", "dlosses", dlosses, {rows}, scores.dtype());
  expect("squared_hinge backward", "dscores", dscores, scores.shape(), scores.dtype());
  if constexpr (kBuiltWithCuda)
    if (on_cuda("squared_hinge backward", dlosses, scores, labels, dscores))
      return cuda::squared_hinge_backward(dlosses, scores, labels, dscores, mode);
  for_floating(scores.dtype(), "squared_hinge backward", [&]<class T>(T) {
    const T *up = dlosses.data<T>(), *ps = scores.data<T>();
    const std::int32_t* pl = labels.data<std::int32_t>();
    T* out = dscores.data<T>();
#pragma omp parallel for schedule(static) if (scores.numel() > kParallelElements)
    for (Index row = 0; row < rows; ++row)
      for (Index c = 0; c < classes; ++c) {
        const auto [target, value] = Shortfall<T>(ps[row * classes + c], c == pl[row]);
        write(out[row * classes + c], up[row] * T(-2) / static_cast<T>(classes) * target * value, mode);
      }
  });
}

}  // namespace conclave::kernels
