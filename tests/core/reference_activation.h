// Reference implementation of the activations and their derivatives, in f64.
#pragma once

#include <algorithm>
#include <cmath>
#include <utility>

#include "core/kernels/matmul.h"

namespace conclave {

inline constexpr Activation kAllActivations[] = {Activation::none,       Activation::relu,
                                                 Activation::gelu,       Activation::silu,
                                                 Activation::hard_swish, Activation::hard_sigmoid};

/// {value, derivative} at x.
inline std::pair<double, double> reference_activation(double x, Activation kind) {
  const double cdf = 0.5 * std::erfc(-x / std::sqrt(2.0)),
               density = std::exp(-x * x / 2) / std::sqrt(2 * M_PI);
  const double sigmoid = 1 / (1 + std::exp(-x));
  const double line = std::min(std::max(x / 6 + 0.5, 0.0), 1.0);
  switch (kind) {
    case Activation::none:
      return {x, 1.0};
    case Activation::relu:
      return {x > 0 ? x : 0.0, x > 0 ? 1.0 : 0.0};
    case Activation::gelu:
      return {x * cdf, cdf + x * density};
    case Activation::silu:
      return {x * sigmoid, sigmoid * (1 + x * (1 - sigmoid))};
    case Activation::hard_swish:
      return {x * line, std::fabs(x) < 3 ? x / 3 + 0.5 : line};
    case Activation::hard_sigmoid:
      return {line, std::fabs(x) < 3 ? 1.0 / 6 : 0.0};
  }
  return {};
}

}  // namespace conclave
