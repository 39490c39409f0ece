// The activations and their derivatives by their formulas, in f64.
#pragma once

#include <cmath>
#include <utility>

#include "core/kernels/matmul.h"

namespace conclave {

/// {value, derivative} at x.
inline std::pair<double, double> reference_activation(double x, Activation kind) {
  const double cdf = 0.5 * std::erfc(-x / std::sqrt(2.0)),
               density = std::exp(-x * x / 2) / std::sqrt(2 * M_PI);
  const double sigmoid = 1 / (1 + std::exp(-x));
  switch (kind) {
    case Activation::none:
      return {x, 1.0};
    case Activation::relu:
      return {x > 0 ? x : 0.0, x > 0 ? 1.0 : 0.0};
    case Activation::gelu:
      return {x * cdf, cdf + x * density};
    case Activation::silu:
      return {x * sigmoid, sigmoid * (1 + x * (1 - sigmoid))};
  }
  return {};
}

}  // namespace conclave
