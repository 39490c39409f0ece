// One element's AdamW step, shared by the CPU and CUDA kernels.
#pragma once

#include <cmath>

#include "core/host_device.h"
#include "core/kernels/adamw.h"

namespace conclave::kernels {

/// The numbers of adamw(), in the order in which they are stored.
template <class T>
struct AdamWUpdate {
  T b1, b2, c1, c2, rate, correction, shrink, epsilon, scale, towards;

  AdamWUpdate() = default;
  /// A copy of `numbers`; with Decay::off, without their weight decay.
  CONCLAVE_HOST_DEVICE AdamWUpdate(const AdamWUpdate& numbers, Decay decay) : AdamWUpdate(numbers) {
    if (decay == Decay::off) shrink = T(1);
  }
  explicit AdamWUpdate(const AdamWOptions& options)
      : b1(static_cast<T>(options.beta1)),
        b2(static_cast<T>(options.beta2)),
        c1(static_cast<T>(1.0 - options.beta1)),
        c2(static_cast<T>(1.0 - options.beta2)),
        rate(static_cast<T>(options.learning_rate /
                            (1.0 - std::pow(options.beta1, static_cast<double>(options.step))))),
        correction(options.adaptive
                       ? static_cast<T>(1.0 / std::sqrt(1.0 - std::pow(options.beta2,
                                                                       static_cast<double>(options.step))))
                       : T(0)),
        shrink(static_cast<T>(1.0 - options.learning_rate * options.weight_decay)),
        epsilon(options.adaptive ? static_cast<T>(options.epsilon) : T(1)),
        scale(static_cast<T>(options.gradient_scale)),
        towards(static_cast<T>(1.0 - options.ema)) {}

  CONCLAVE_HOST_DEVICE void step(T g, T& w, T& m, T& v) const {
    const T gradient = g * scale;
    m = b1 * m + c1 * gradient;
    v = b2 * v + c2 * gradient * gradient;
    // Without adaptive rates, v is not used: if it overflows, its root times 0 would be NaN.
    const T divisor = correction > T(0) ? std::sqrt(v) * correction : T(0);
    w = w * shrink - rate * m / (divisor + epsilon);
  }
  CONCLAVE_HOST_DEVICE void average(T w, T& a) const { a += towards * (w - a); }
};

}  // namespace conclave::kernels
