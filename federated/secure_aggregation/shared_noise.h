// Noise that nobody knows: each site adds a share of it, as integers, to its masked update, and only the sum
// is ever visible (Kairouz, Liu, Steinke 2021, "The Distributed Discrete Gaussian Mechanism"). The shares of
// as many sites as a sum must have at least are all the noise that is needed; those of further sites add to
// it.
#pragma once

#include <cstdint>
#include <span>

#include "federated/secure_aggregation/agreement.h"
#include "federated/secure_aggregation/fixed_point.h"

namespace conclave::secure_aggregation {

/// What the noise is for: hiding one unit in a sum of updates, either a site's whole update or one record's
/// part.
struct SharedNoise {
  double sensitivity = 1;       ///< largest norm by which one unit changes the sum
  double noise_multiplier = 0;  ///< standard deviation of the total noise, divided by `sensitivity`; 0: none
};

/// The integers that updates are sent as, and the variance of each site's noise in these integers.
struct NoisyFormat {
  FixedPoint format;
  std::uint64_t variance = 0;  ///< 0: none

  /// For updates of norm at most `clip`. Both sides compute the same. With noise, the sum of the shares of
  /// agreement.least sites is, to within e^-900, a discrete Gaussian. Its standard deviation is at least
  /// noise_multiplier times the change that one unit makes in the sum of integers; this change includes
  /// rounding, by less than one more in each of agreement.length coordinates. For each number, the
  /// probability that a site's noise exceeds 12 deviations, so that the sum may wrap around, is below 10^-32;
  /// what is then released is wrong, but not less private. Throws Error if words are too narrow for this, or
  /// so narrow that rounding adds more than a tenth to what one unit changes.
  static NoisyFormat choose(const Agreement& agreement, double clip, const SharedNoise& noise);

  /// Adds a site's share of the noise to its integers.
  void add_share(std::span<std::int64_t> numbers, RandomBits& random) const;
};

}  // namespace conclave::secure_aggregation
