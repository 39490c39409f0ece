// What several privacy losses, each many times, add up to: its moments, by which Chernoff bounds its tails.
#pragma once

#include <cstdint>
#include <vector>

#include "federated/privacy/privacy_loss.h"

namespace conclave {

struct RepeatedLoss {
  PrivacyLoss loss;
  std::int64_t steps = 1;
};

/// The sum S of independent losses on one grid. A tilt multiplies each probability by e^(tilt * loss), and
/// all by what makes them one again.
class LossSum {
 public:
  LossSum(std::vector<RepeatedLoss> losses, double interval);

  /// log E[e^(tilt S)], infinite losses left out. Convex.
  double cumulant(double tilt) const;

  struct Moments {
    double mean, variance;
  };
  /// Of the tilted distribution.
  Moments moments(double tilt) const;

  /// Chernoff's bound, and the tilt above 0 that makes it the least: of the epsilon for a delta, and of the
  /// delta for an epsilon. The tilt is looked for within a factor of 50 of `guess`.
  struct Bound {
    double value, tilt;
  };
  Bound epsilon_bound(double delta, double guess) const;
  Bound delta_bound(double epsilon, double guess) const;

  /// A tilt, from 0 to that of a bound of (epsilon, delta), that goes towards epsilon no further than it
  /// takes for S to be above it with probability e^-12, about: the answer, below the bound as it may be, is
  /// then among what is likely.
  double moderate_tilt(double epsilon, double log_delta, double bound_tilt) const;

  /// Bounds of S that the tilted distribution is below, or above, with at most probability e^log_tail.
  double upper(double tilt, double log_tail) const { return tail_bound(tilt, log_tail, 1); }
  double lower(double tilt, double log_tail) const { return tail_bound(tilt, log_tail, -1); }

  /// The probability that S is infinite, at most.
  double infinite() const;

  const std::vector<RepeatedLoss>& losses() const { return losses_; }
  double interval() const { return interval_; }
  /// One loss's tilted probabilities, from its lowest point up.
  std::vector<double> tilted(std::size_t loss, double tilt) const;

 private:
  double log_normalizer(std::size_t loss, double tilt) const;
  double tail_bound(double tilt, double log_tail, double sign) const;

  std::vector<RepeatedLoss> losses_;
  double interval_;
  std::vector<std::vector<double>> logs_;  // of the probabilities
};

}  // namespace conclave
