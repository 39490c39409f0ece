// Sites that each add discrete Gaussian noise to integers, if only the sum is visible.
#pragma once

#include <cstdint>

#include "federated/privacy/accountant.h"

namespace conclave {

struct DistributedGaussian {
  double variance = 0;     ///< of each site's noise, in the integers' units
  std::int64_t sites = 1;  ///< that did add noise, without those that dropped out or may be dishonest
  double sensitivity = 0;  ///< largest l2 norm of one unit's integers, after rounding
  std::int64_t dimension = 0;
};

/// A sum of discrete Gaussians is not a discrete Gaussian, but close to one. By Kairouz, Liu and Steinke 2021
/// ("The Distributed Discrete Gaussian Mechanism", proposition 14), the Renyi divergence of order alpha is at
/// most rho alpha, with
///   rho = (sensitivity / sqrt(sites variance) + sqrt(dimension) tau)^2 / 2,
///   tau = 10 sum over k < sites of e^(-2 pi^2 variance k / (k + 1)).
/// Throws Error if a number is out of range, or if the variance is so small that tau, not the noise, decides:
/// if rho is above 1.1 times that of a Gaussian.
double concentration(const DistributedGaussian& mechanism);

/// The largest norm that a vector of norm `norm` can have after each of its `dimension` values was multiplied
/// by `scale` and rounded, at random or not, to one of the two neighbouring integers: scale * norm +
/// sqrt(dimension).
double rounded_norm(double norm, double scale, std::int64_t dimension);

}  // namespace conclave
