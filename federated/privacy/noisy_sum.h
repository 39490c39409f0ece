// The Gaussian mechanism on a sum of bounded vectors, of which no floating-point noise is released (Mironov
// 2012, "On significance of the least significant bits"): the sum is rounded to a grid, whose step is some
// millionth of the noise's deviation, and each coordinate is moved by a whole number of steps, which a
// discrete Gaussian draws.
#pragma once

#include <cstdint>
#include <optional>
#include <span>

#include "federated/privacy/discrete_gaussian.h"
#include "federated/random_source.h"

namespace conclave {

/// What of a sum of vectors, each of norm `bound` at most, is to be released.
struct NoisySum {
  double bound = 1;             ///< the largest norm of one's part
  double noise_multiplier = 1;  ///< of the noise's deviation, over what one may change
  std::int64_t coordinates = 1;

  /// A power of two.
  double step() const;
  /// How far one's part moves the rounded sum, at most: each coordinate by one step more than before.
  double sensitivity() const;
  double deviation() const { return noise_multiplier * sensitivity(); }
};

/// The noise of such a release; one that is without has a noise_multiplier of 0. `random` serves several
/// threads.
class SumNoise {
 public:
  explicit SumNoise(const NoisySum& release);

  /// sums: some of the coordinates of the sum; noise is added to each in place.
  void add_to(RandomSource& random, std::span<float> sums) const;

  /// The same of sums that are whole numbers of steps already, as they are where each part was rounded to the
  /// nearest before it was added. They stay exact below 2^53: whoever adds them up, in whatever order.
  void add_to_steps(RandomSource& random, std::span<double> steps) const;

 private:
  template <class Number>
  void add(double step, RandomSource& random, std::span<Number> sums) const;

  double step_ = 1;
  std::optional<DiscreteGaussian> steps_;
};

}  // namespace conclave
