#include "core/kernels/adamw.h"

#include <cmath>

namespace conclave::kernels {

void adamw(const Tensor& values, const Tensor& gradients, const Tensor& first_moment,
           const Tensor& second_moment, const Tensor& average, const AdamWOptions& options) {
  expect("adamw", "gradients", gradients, values.shape(), values.dtype());
  expect("adamw", "first_moment", first_moment, values.shape(), values.dtype());
  expect("adamw", "second_moment", second_moment, values.shape(), values.dtype());
  if (average.defined()) expect("adamw", "average", average, values.shape(), values.dtype());
  require(options.step >= 1, "adamw: step {} must be at least 1", options.step);
  const Index total = values.numel();
  for_floating(values.dtype(), "adamw", [&]<class T>(T) {
    T *w = values.data<T>(), *m = first_moment.data<T>(), *v = second_moment.data<T>();
    T* a = average.defined() ? average.data<T>() : nullptr;
    const T* g = gradients.data<T>();
    const double step = static_cast<double>(options.step);
    const T b1 = static_cast<T>(options.beta1), b2 = static_cast<T>(options.beta2);
    const T c1 = static_cast<T>(1.0 - options.beta1), c2 = static_cast<T>(1.0 - options.beta2);
    const T rate = static_cast<T>(options.learning_rate / (1.0 - std::pow(options.beta1, step)));
    const T correction = static_cast<T>(1.0 / std::sqrt(1.0 - std::pow(options.beta2, step)));
    const T shrink = static_cast<T>(1.0 - options.learning_rate * options.weight_decay);
    const T epsilon = static_cast<T>(options.epsilon), scale = static_cast<T>(options.gradient_scale);
    const T towards = static_cast<T>(1.0 - options.ema);
#pragma omp parallel for simd schedule(static) if (total > kParallelElements)
    for (Index i = 0; i < total; ++i) {
      const T gradient = g[i] * scale;
      m[i] = b1 * m[i] + c1 * gradient;
      v[i] = b2 * v[i] + c2 * gradient * gradient;
      w[i] = w[i] * shrink - rate * m[i] / (std::sqrt(v[i]) * correction + epsilon);
    }
    if (!a) return;
#pragma omp parallel for simd schedule(static) if (total > kParallelElements)
    for (Index i = 0; i < total; ++i) a[i] += towards * (w[i] - a[i]);
  });
}

}  // namespace conclave::kernels
