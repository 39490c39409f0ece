// The Gaussian mechanism on a sum of bounded vectors. No floating-point noise is released (Mironov 2012, "On
// significance of the least significant bits"): the sum is rounded to a grid whose step is about a millionth
// of the noise's deviation, and each coordinate is moved by a whole number of steps, drawn from a discrete
// Gaussian.
#pragma once

#include <cstdint>
#include <optional>
#include <span>

#include "federated/privacy/discrete_gaussian.h"
#include "federated/random_source.h"

namespace conclave {

/// The release of a sum of vectors, each of norm at most `bound`.
struct NoisySum {
  double bound = 1;             ///< largest norm of one unit's part
  double noise_multiplier = 1;  ///< standard deviation of the noise, divided by sensitivity()
  std::int64_t coordinates = 1;

  /// Step of the grid, a power of two.
  double step() const;
  /// The most by which one unit's part moves the rounded sum: rounding adds up to one step in each
  /// coordinate.
  double sensitivity() const;
  double deviation() const { return noise_multiplier * sensitivity(); }
};

/// The noise of such a release; there is none if noise_multiplier is 0. `random` must be safe on several
/// threads.
class SumNoise {
 public:
  explicit SumNoise(const NoisySum& release);

  /// sums: some of the sum's coordinates. Rounds each to the grid and adds noise to it, in place.
  void add_to(RandomSource& random, std::span<float> sums) const;

  /// The same for sums that already are whole numbers of steps, because each part was rounded to the grid
  /// before it was added. Such sums are exact below 2^53, in whatever order the parts are added.
  void add_to_steps(RandomSource& random, std::span<double> steps) const;

 private:
  template <class Number>
  void add(double step, RandomSource& random, std::span<Number> sums) const;

  double step_ = 1;
  std::optional<DiscreteGaussian> steps_;
};

}  // namespace conclave
