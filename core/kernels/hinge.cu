#include "core/kernels/cuda_kernel.h"
#include "core/kernels/hinge.h"

namespace conclave::kernels::cuda {
namespace {

// How far a score falls short of its margin, at least 0; NaN stays NaN.
template <class T>
__device__ T shortfall(T target, T score) {
  const T value = T(1) - target * score;
  return value < T(0) ? T(0) : value;
}

template <class T, int kWidth, int kTeam>
__global__ void __launch_bounds__(kBlock)
    hinge_kernel(Index rows, Index classes, const T* scores, const std::int32_t* labels, T* losses) {
  for_team_rows(rows, [&](Index row) {
    const Index label = labels[row];
    T sum = 0;
    for_columns<kWidth, kTeam>(classes, [&](Index i) {
      const Pack<T, kWidth> score = load<kWidth>(scores + row * classes + i);
      for (int j = 0; j < kWidth; ++j) {
        const T value = shortfall(i + j == label ? T(1) : T(-1), score.at[j]);
        sum += value * value;
      }
    });
    sum = team_sum<kTeam>(sum);
    if (threadIdx.x == 0)
      losses[row] = label >= 0 && label < classes ? sum / static_cast<T>(classes) : not_a_number<T>();
  });
}

template <class T, int kWidth, int kTeam>
__global__ void __launch_bounds__(kBlock)
    hinge_backward_kernel(Index rows, Index classes, const T* dlosses, const T* scores,
                          const std::int32_t* labels, T* dscores, Write mode) {
  for_team_rows(rows, [&](Index row) {
    const Index label = labels[row];
    const T factor = dlosses[row] * T(-2) / static_cast<T>(classes);
    for_columns<kWidth, kTeam>(classes, [&](Index i) {
      Pack<T, kWidth> value = load<kWidth>(scores + row * classes + i);
      for (int j = 0; j < kWidth; ++j) {
        const T target = i + j == label ? T(1) : T(-1);
        value.at[j] = factor * target * shortfall(target, value.at[j]);
      }
      write_pack<kWidth>(dscores + row * classes + i, value, mode);
    });
  });
}

}  // namespace

void squared_hinge(const Tensor& scores, const Tensor& labels, const Tensor& losses) {
  const Index rows = scores.size(0), classes = scores.size(1);
  if (rows == 0) return;
  for_floating(scores.dtype(), "squared_hinge", [&]<class T>(T) {
    for_team<T>(classes, {scores.raw()}, [&]<int kWidth, int kTeam>() {
      launch("squared_hinge", hinge_kernel<T, kWidth, kTeam>, team_shape<kTeam>(rows), rows, classes,
             scores.data<T>(), labels.data<std::int32_t>(), losses.data<T>());
    });
  });
}

void squared_hinge_backward(const Tensor& dlosses, const Tensor& scores, const Tensor& labels,
                            const Tensor& dscores, Write write) {
  const Index rows = scores.size(0), classes = scores.size(1);
  if (rows == 0) return;
  for_floating(scores.dtype(), "squared_hinge backward", [&]<class T>(T) {
    for_team<T>(classes, {scores.raw(), dscores.raw()}, [&]<int kWidth, int kTeam>() {
      launch("squared_hinge backward", hinge_backward_kernel<T, kWidth, kTeam>, team_shape<kTeam>(rows), rows,
             classes, dlosses.data<T>(), scores.data<T>(), labels.data<std::int32_t>(), dscores.data<T>(),
             write);
    });
  });
}

}  // namespace conclave::kernels::cuda
