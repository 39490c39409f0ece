// Updates as integers, and their sum as numbers again. An update of norm at most `clip` has no coordinate
// beyond it, so x becomes round(x * scale) with the largest scale for which the integers of all sites, and
// the noise that each may add, cannot wrap in their sum.
#pragma once

#include "federated/random_source.h"
#include "federated/secure_aggregation/ring.h"

namespace conclave::secure_aggregation {

struct FixedPoint {
  double scale = 1;         ///< integers per unit
  std::int64_t levels = 1;  ///< the largest absolute value of an integer before noise

  /// `noise`: the largest absolute value of what a site adds to an integer. Throws Error where too little is
  /// left: a clip that is not positive and finite, or fewer than 2^7 levels.
  static FixedPoint choose(Ring ring, std::size_t sites, double clip, std::int64_t noise = 0);
};

/// Rounds at random to one of the two neighbours, so that the expected value is x * scale (but for 2^-32 of a
/// level). Throws Error where a number is NaN or infinite, or beyond the clip by more than rounding explains.
std::vector<std::int64_t> quantize(std::span<const float> x, FixedPoint format, RandomBits& random);

/// The same, rounded anew until the norm of the integers is at most what Kairouz, Liu, Steinke, "The
/// Distributed Discrete Gaussian Mechanism", ICML 2021, equation (3) bounds it by: that bound, squared, is
/// the sensitivity which noise is calibrated to. `beta` in (0, 1): the probability of having to repeat is at
/// most that. Throws Error where the norm of x * scale is above `norm`, which is clip * scale in integers.
std::vector<std::int64_t> quantize_conditionally(std::span<const float> x, FixedPoint format, double norm,
                                                 double beta, RandomBits& random);
/// min of the two bounds; `norm` in integers, `length` of the vector.
double rounded_norm_bound(double norm, std::size_t length, double beta);

/// sum / scale. [sum.size()]
std::vector<float> dequantize(const RingVector& sum, FixedPoint format);
/// The same of the numbers from `first` on. [out.size()]
void dequantize(const RingVector& sum, FixedPoint format, std::size_t first, std::span<float> out);

}  // namespace conclave::secure_aggregation
