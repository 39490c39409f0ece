#include "core/kernels/adamw.h"

#include <cstring>

#include "core/kernels/adamw_update.h"

namespace conclave::kernels {

void prepare_adamw(const AdamWOptions& options, const Tensor& numbers) {
  require(options.step >= 1, "adamw: step {} must be at least 1", options.step);
  expect("adamw", "numbers", numbers, {kAdamWNumbers}, numbers.dtype());
  if constexpr (kBuiltWithCuda)
    if (on_cuda("adamw", numbers)) return cuda::prepare_adamw(options, numbers);
  for_floating(numbers.dtype(), "adamw", [&]<class T>(T) {
    const AdamWUpdate<T> update(options);
    static_assert(sizeof update == kAdamWNumbers * sizeof(T));
    std::memcpy(numbers.raw(), &update, sizeof update);
  });
}

void adamw(const Tensor& values, const Tensor& gradients, const Tensor& first_moment,
           const Tensor& second_moment, const Tensor& average, Decay decay, const Tensor& numbers) {
  expect("adamw", "gradients", gradients, values.shape(), values.dtype());
  expect("adamw", "first_moment", first_moment, values.shape(), values.dtype());
  expect("adamw", "second_moment", second_moment, values.shape(), values.dtype());
  if (average.defined()) expect("adamw", "average", average, values.shape(), values.dtype());
  expect("adamw", "numbers", numbers, {kAdamWNumbers}, values.dtype());
  const Index total = values.numel();
  if constexpr (kBuiltWithCuda)
    if (on_cuda("adamw", values, gradients, first_moment, second_moment, average, numbers))
      return cuda::adamw(values, gradients, first_moment, second_moment, average, decay, numbers);
  for_floating(values.dtype(), "adamw", [&]<class T>(T) {
    T *w = values.data<T>(), *m = first_moment.data<T>(), *v = second_moment.data<T>();
    T* a = average.defined() ? average.data<T>() : nullptr;
    const T* g = gradients.data<T>();
    const AdamWUpdate<T> update(*static_cast<const AdamWUpdate<T>*>(numbers.raw()), decay);
#pragma omp parallel for simd schedule(static) if (total > kParallelElements)
    for (Index i = 0; i < total; ++i) update.step(g[i], w[i], m[i], v[i]);
    if (!a) return;
#pragma omp parallel for simd schedule(static) if (total > kParallelElements)
    for (Index i = 0; i < total; ++i) update.average(w[i], a[i]);
  });
}

}  // namespace conclave::kernels
