// Noise that nobody knows: each site adds a share of it, as integers, to its masked update, and only the sum
// is ever seen (Kairouz, Liu, Steinke 2021, "The Distributed Discrete Gaussian Mechanism"). The shares of the
// fewest sites that a sum may be of are noise enough; those of others come on top.
#pragma once

#include <cstdint>
#include <span>

#include "federated/secure_aggregation/agreement.h"
#include "federated/secure_aggregation/fixed_point.h"

namespace conclave::secure_aggregation {

/// How a sum of updates is to hide one unit: a site's whole update, or a record's part in one.
struct SharedNoise {
  double sensitivity = 1;       ///< the largest norm of what a unit changes in the sum
  double noise_multiplier = 0;  ///< of the whole noise's deviation, over that; 0: none
};

/// Integers as updates are sent in, and of which variance each site's noise is in them.
struct NoisyFormat {
  FixedPoint format;
  std::uint64_t variance = 0;  ///< 0: none

  /// For updates of norm at most `clip`. Both sides compute it alike. With noise, the sum of agreement.least
  /// sites' shares is, to within e^-900, a discrete Gaussian of at least noise_multiplier times what a unit
  /// changes in the sum of integers: rounding moves each of agreement.length coordinates by less than one
  /// more. That it is more than 12 deviations of a site's noise, and the sum may wrap, has a probability
  /// below 10^-32 of each number; what is then released is wrong, not less private. Throws Error where the
  /// words are too narrow for that, or for rounding to be small beside the noise.
  static NoisyFormat choose(const Agreement& agreement, double clip, const SharedNoise& noise);

  /// Adds a site's share to its integers.
  void add_share(std::span<std::int64_t> numbers, RandomBits& random) const;
};

}  // namespace conclave::secure_aggregation
