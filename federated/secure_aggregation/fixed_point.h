// Updates as integers, and their sum as numbers again. No coordinate of an update with norm at most `clip` is
// larger than `clip`. So x becomes round(x * scale), with the largest scale for which the sum of all sites'
// integers, including the noise that each may add, cannot wrap around.
#pragma once

#include "federated/random_source.h"
#include "federated/secure_aggregation/ring.h"

namespace conclave::secure_aggregation {

struct FixedPoint {
  double scale = 1;         ///< integers per unit
  std::int64_t levels = 1;  ///< largest absolute value of an integer, before noise

  /// `noise`: largest absolute value that a site adds to an integer. Throws Error if `clip` is not positive
  /// and finite, or if fewer than 2^7 levels remain.
  static FixedPoint choose(Ring ring, std::size_t sites, double clip, std::int64_t noise = 0);
};

/// The float nearest to `x` that is not farther from zero.
float toward_zero(double x);
/// Scales `values` so that their L2 norm is at most `norm`; does nothing if it already is. No value is then
/// above `norm`, not even by the rounding to f32.
void shorten(std::span<float> values, double norm);

/// Rounds at random to one of the two neighbouring integers, such that the expected value is x * scale (to
/// within 2^-32 of a level). Throws Error if a number is NaN or infinite, or beyond the clip by more than
/// half a level.
std::vector<std::int64_t> quantize(std::span<const float> x, FixedPoint format, RandomBits& random);

/// sum / scale. [sum.size()]
std::vector<float> dequantize(const RingVector& sum, FixedPoint format);
/// The same for the numbers from `first` on. [out.size()]
void dequantize(const RingVector& sum, FixedPoint format, std::size_t first, std::span<float> out);

}  // namespace conclave::secure_aggregation
