// How CPU and CUDA kernels round a dropout rate, so that both drop the same elements.
#pragma once

#include <cmath>
#include <cstdint>

#include "core/error.h"

namespace conclave::kernels {

/// How many of the 65536 values of 16 bits drop an element.
inline std::uint32_t dropout_threshold(double rate) {
  require(rate >= 0 && rate < 1, "dropout: rate {} is outside [0, 1)", rate);
  return static_cast<std::uint32_t>(std::lround(rate * 65536.0));
}

/// The factor of kept elements.
template <class T>
T dropout_scale(double rate) {
  return static_cast<T>(65536.0 / (65536.0 - dropout_threshold(rate)));
}

}  // namespace conclave::kernels
