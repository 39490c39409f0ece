// Conversion between one number and the integer that represents it, for CPU and CUDA kernels, and for
// training and inference, which must round alike.
#pragma once

#include <cmath>
#include <limits>

#include "core/host_device.h"
#include "core/kernels/fake_quantize.h"

namespace conclave::kernels {

/// Rounds to the nearest integer; ties to the even one.
CONCLAVE_HOST_DEVICE inline float round_to_even(float x) { return rintf(x); }
CONCLAVE_HOST_DEVICE inline double round_to_even(double x) { return rint(x); }

/// The lowest and highest level, counted from the zero point.
template <class T>
struct QuantBounds {
  T lowest, highest;
  CONCLAVE_HOST_DEVICE QuantBounds(QuantLevels levels, T zero_point)
      : lowest(static_cast<T>(levels.lowest) - zero_point),
        highest(static_cast<T>(levels.highest) - zero_point) {}
  /// `steps`, a number of steps of the scale, clamped to these bounds; NaN stays NaN.
  CONCLAVE_HOST_DEVICE T clamp(T steps) const {
    steps = steps < lowest ? lowest : steps;
    return steps > highest ? highest : steps;
  }
  /// clamp() as an integer; NaN, which no integer is, becomes the lowest.
  CONCLAVE_HOST_DEVICE std::int32_t integer(T steps) const {
    steps = steps > lowest ? steps : lowest;
    return static_cast<std::int32_t>(steps < highest ? steps : highest);
  }
  CONCLAVE_HOST_DEVICE bool contain(T steps) const { return steps >= lowest && steps <= highest; }
};

/// Numbers are multiplied by the scale's reciprocal, which is infinite for some smaller scales; 0 times it
/// would be NaN.
template <class T>
inline constexpr T kLeastScale = std::numeric_limits<T>::min();

/// The scale and zero point of the range from `lowest` to `highest`; see range_scales.
template <class T>
CONCLAVE_HOST_DEVICE inline T range_scale(T lowest, T highest, QuantLevels levels, T& zero_point) {
  const T below = lowest < T(0) ? lowest : T(0), above = highest > T(0) ? highest : T(0);
  zero_point = 0;
  if (levels.is_symmetric()) {
    const T largest = -below > above ? -below : above;
    const T step = largest / static_cast<T>(levels.highest);
    return step >= kLeastScale<T> ? step : T(1);
  }
  const T scale = (above - below) / static_cast<T>(levels.highest - levels.lowest);
  if (!(scale >= kLeastScale<T>)) return T(1);
  zero_point = static_cast<T>(levels.lowest) - round_to_even(below / scale);
  return scale;
}

}  // namespace conclave::kernels
