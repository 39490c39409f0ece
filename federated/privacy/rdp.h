// Renyi differential privacy: for each order, the divergences of releases add up. The sum for each order
// gives an epsilon for a delta, and the least epsilon is the answer.
#pragma once

#include "federated/privacy/accountant.h"

namespace conclave {

class RdpAccountant : public PrivacyAccountant {
 public:
  struct Bound {
    double value;  ///< epsilon, or delta
    double order;  ///< that gave it
  };
  Bound epsilon_bound(double delta) const;
  Bound delta_bound(double epsilon) const;

 private:
  double epsilon_of_events(double delta) const override { return epsilon_bound(delta).value; }
  double delta_of_events(double epsilon) const override { return delta_bound(epsilon).value; }
};

/// Renyi divergence of order `order` > 1 of (1 - q) N(0, s^2) + q N(1, s^2) from N(0, s^2), with q the
/// sampling rate in (0, 1] and s the noise multiplier: log(A_order) / (order - 1) of Mironov, Talwar and
/// Zhang 2019 ("Renyi Differential Privacy of the Sampled Gaussian Mechanism"). By their theorem 5 the
/// opposite divergence is no greater.
double sampled_gaussian_divergence(double noise_multiplier, double sampling_rate, double order);

}  // namespace conclave
