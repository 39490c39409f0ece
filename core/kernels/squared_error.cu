#include "core/kernels/cuda_kernel.h"
#include "core/kernels/squared_error.h"

namespace conclave::kernels::cuda {
namespace {

template <class T, int kWidth, int kTeam>
__global__ void __launch_bounds__(kBlock)
    squared_error_kernel(Index rows, Index columns, const T* prediction, const T* target, T* losses) {
  for_team_rows(rows, [&](Index row) {
    T sum = 0;
    for_columns<kWidth, kTeam>(columns, [&](Index i) {
      const Pack<T, kWidth> predicted = load<kWidth>(prediction + row * columns + i),
                            wanted = load<kWidth>(target + row * columns + i);
      for (int j = 0; j < kWidth; ++j) {
        const T error = predicted.at[j] - wanted.at[j];
        sum += error * error;
      }
    });
    sum = team_sum<kTeam>(sum);
    if (threadIdx.x == 0) losses[row] = sum / static_cast<T>(columns);
  });
}

template <class T, int kWidth, int kTeam>
__global__ void __launch_bounds__(kBlock)
    squared_error_backward_kernel(Index rows, Index columns, const T* dlosses, const T* prediction,
                                  const T* target, T* dprediction, Write mode) {
  for_team_rows(rows, [&](Index row) {
    const T factor = dlosses[row] * T(2) / static_cast<T>(columns);
    for_columns<kWidth, kTeam>(columns, [&](Index i) {
      Pack<T, kWidth> value = load<kWidth>(prediction + row * columns + i);
      const Pack<T, kWidth> wanted = load<kWidth>(target + row * columns + i);
      for (int j = 0; j < kWidth; ++j) value.at[j] = factor * (value.at[j] - wanted.at[j]);
      write_pack<kWidth>(dprediction + row * columns + i, value, mode);
    });
  });
}

}  // namespace

void squared_error(const Tensor& prediction, const Tensor& target, const Tensor& losses) {
  const Index rows = prediction.size(0), columns = prediction.size(1);
  if (rows == 0) return;
  for_floating(prediction.dtype(), "squared_error", [&]<class T>(T) {
    for_team<T>(columns, {prediction.raw(), target.raw()}, [&]<int kWidth, int kTeam>() {
      launch("squared_error", squared_error_kernel<T, kWidth, kTeam>, team_shape<kTeam>(rows), rows, columns,
             prediction.data<T>(), target.data<T>(), losses.data<T>());
    });
  });
}

void squared_error_backward(const Tensor& dlosses, const Tensor& prediction, const Tensor& target,
                            const Tensor& dprediction, Write write) {
  const Index rows = prediction.size(0), columns = prediction.size(1);
  if (rows == 0) return;
  for_floating(prediction.dtype(), "squared_error backward", [&]<class T>(T) {
    for_team<T>(columns, {prediction.raw(), target.raw(), dprediction.raw()}, [&]<int kWidth, int kTeam>() {
      launch("squared_error backward", squared_error_backward_kernel<T, kWidth, kTeam>,
             team_shape<kTeam>(rows), rows, columns, dlosses.data<T>(), prediction.data<T>(),
             target.data<T>(), dprediction.data<T>(), write);
    });
  });
}

}  // namespace conclave::kernels::cuda
