// Sites that each add discrete Gaussian noise to integers, of which only the sum is seen.
#pragma once

#include <cstdint>

#include "federated/privacy/accountant.h"

namespace conclave {

struct DistributedGaussian {
  double variance = 0;     ///< of each site's noise, in the integers' units
  std::int64_t sites = 1;  ///< that did add noise: those that dropped out, or may be dishonest, do not count
  double sensitivity = 0;  ///< most of the norm (l2) of one unit's integers, after rounding
  std::int64_t dimension = 0;
};

/// Sums of discrete Gaussians are none, but nearly. Of Kairouz, Liu and Steinke 2021 ("The Distributed
/// Discrete Gaussian Mechanism", proposition 14): the divergence of order alpha is at most rho alpha, with
///   rho = (sensitivity / sqrt(sites variance) + sqrt(dimension) tau)^2 / 2,
///   tau = 10 sum over k < sites of e^(-2 pi^2 variance k / (k + 1)).
/// Throws Error where a number is out of its range, and where the variance is so small that tau, not the
/// noise, decides: where rho is above 1.1 times the Gaussian's.
double concentration(const DistributedGaussian& mechanism);

/// The norm that a vector of norm `norm` may have once each of its `dimension` values was multiplied by
/// `scale` and rounded, at random or not, to one of its two neighbours among the integers: scale * norm +
/// sqrt(dimension).
double rounded_norm(double norm, double scale, std::int64_t dimension);

}  // namespace conclave
