#include "core/kernels/squared_error.h"

namespace conclave::kernels {

void squared_error(const Tensor& prediction, const Tensor& target, const Tensor& losses) {
  expect_rank("squared_error", "prediction", prediction, 2);
  const Index rows = prediction.size(0), columns = prediction.size(1);
  require(columns > 0, "squared_error: prediction {} has no columns", prediction.shape());
  expect("squared_error", "prediction", prediction, prediction.shape(), prediction.dtype());
  expect("squared_error", "target", target, prediction.shape(), prediction.dtype());
  expect("squared_error", "losses", losses, {rows}, prediction.dtype());
  if constexpr (kBuiltWithCuda)
    if (on_cuda("squared_error", prediction, target, losses))
      return cuda::squared_error(prediction, target, losses);
  for_floating(prediction.dtype(), "squared_error", [&]<class T>(T) {
    const T *pp = prediction.data<T>(), *pt = target.data<T>();
    T* ploss = losses.data<T>();
#pragma omp parallel for schedule(static) if (prediction.numel() > kParallelElements)
    for (Index row = 0; row < rows; ++row) {
      T sum = 0;
#pragma omp simd reduction(+ : sum)
      for (Index i = row * columns; i < (row + 1) * columns; ++i) {
        const T error = pp[i] - pt[i];
        sum += error * error;
      }
      ploss[row] = sum / static_cast<T>(columns);
    }
  });
}

void squared_error_backward(const Tensor& dlosses, const Tensor& prediction, const Tensor& target,
                            const Tensor& dprediction, Write mode) {
  const char* operation = "squared_error backward";
  expect_rank(operation, "prediction", prediction, 2);
  const Index rows = prediction.size(0), columns = prediction.size(1);
  expect(operation, "dlosses", dlosses, {rows}, prediction.dtype());
  expect(operation, "target", target, prediction.shape(), prediction.dtype());
  expect(operation, "dprediction", dprediction, prediction.shape(), prediction.dtype());
  if constexpr (kBuiltWithCuda)
    if (on_cuda(operation, dlosses, prediction, target, dprediction))
      return cuda::squared_error_backward(dlosses, prediction, target, dprediction, mode);
  for_floating(prediction.dtype(), operation, [&]<class T>(T) {
    const T *up = dlosses.data<T>(), *pp = prediction.data<T>(), *pt = target.data<T>();
    T* out = dprediction.data<T>();
#pragma omp parallel for schedule(static) if (prediction.numel() > kParallelElements)
    for (Index row = 0; row < rows; ++row) {
      const T factor = up[row] * T(2) / static_cast<T>(columns);
      for (Index i = row * columns; i < (row + 1) * columns; ++i)
        write(out[i], factor * (pp[i] - pt[i]), mode);
    }
  });
}

}  // namespace conclave::kernels
