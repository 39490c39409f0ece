// The distribution of a sum of privacy losses, by Fourier transforms.
#pragma once

#include <cstdint>
#include <vector>

#include "federated/privacy/loss_sum.h"

namespace conclave {

/// Computed under a tilt. Delta and epsilon are precise where the tilted sum is likely. Elsewhere they are
/// less precise, but still not below the true value.
class LossDistribution {
 public:
  LossDistribution(const LossSum& sum, double tilt);

  double delta(double epsilon) const;  ///< sum over losses l > epsilon of (1 - e^(epsilon - l)) P(l)
  double epsilon(double delta) const;  ///< the least value >= 0 whose delta is at most this
  /// By how much log(delta) falls per unit of epsilon.
  double slope(double epsilon) const;

 private:
  /// For a point: its loss minus centre_, and its probability divided by e^log_scale_.
  double offset(std::size_t point) const { return lowest_ + static_cast<double>(point) * interval_; }
  double weight(std::size_t point) const;

  double interval_, tilt_;
  double centre_;     ///< the tilted sum's mean
  double lowest_;     ///< the first point's loss, less centre_
  double log_scale_;  ///< a probability is its tilted one times e^(log_scale_ - tilt_ * offset)
  double infinite_;   ///< probability of infinite losses and of those beyond the points
  std::vector<double> tilted_;
};

}  // namespace conclave
