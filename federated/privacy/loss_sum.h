// The sum of several privacy losses, each repeated many times: its moments, and Chernoff bounds for its
// tails.
#pragma once

#include <cstdint>
#include <vector>

#include "federated/privacy/privacy_loss.h"

namespace conclave {

struct RepeatedLoss {
  PrivacyLoss loss;
  std::int64_t steps = 1;
};

/// The sum S of independent losses on one grid. A tilt multiplies each probability by e^(tilt * loss) and
/// scales the result to a total of 1.
class LossSum {
 public:
  LossSum(std::vector<RepeatedLoss> losses, double interval);

  /// log E[e^(tilt S)] without infinite losses. Convex.
  double cumulant(double tilt) const;

  struct Moments {
    double mean, variance;
  };
  /// Moments of the tilted distribution.
  Moments moments(double tilt) const;

  /// Chernoff's bound and the tilt above 0 that minimizes it: of epsilon for a delta, and of delta for an
  /// epsilon. The tilt is searched within a factor of 50 of `guess`.
  struct Bound {
    double value, tilt;
  };
  Bound epsilon_bound(double delta, double guess) const;
  Bound delta_bound(double epsilon, double guess) const;

  /// A tilt, from 0 to that of a bound of (epsilon, delta), that moves S towards epsilon until S is above
  /// epsilon with probability e^-12, about, and no further. The exact answer may be below the bound, and with
  /// this tilt it is still in the likely range.
  double moderate_tilt(double epsilon, double log_delta, double bound_tilt) const;

  /// Values that the tilted S is above, or below, with probability at most e^log_tail.
  double upper(double tilt, double log_tail) const { return tail_bound(tilt, log_tail, 1); }
  double lower(double tilt, double log_tail) const { return tail_bound(tilt, log_tail, -1); }

  /// Upper bound of the probability that S is infinite.
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
