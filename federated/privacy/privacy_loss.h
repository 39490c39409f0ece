// The privacy loss of one release, on a grid, rounded such that it never states more privacy than there is.
#pragma once

#include <cstdint>
#include <vector>

namespace conclave {

/// The loss is (lowest + i) * interval with probability probabilities[i], and infinite with `infinite`.
struct PrivacyLoss {
  std::int64_t lowest = 0;
  std::vector<double> probabilities;
  double infinite = 0;
};

/// For neighbouring data sets without and with the unit, the output is distributed as N(0, s^2) and as (1 -
/// q) N(0, s^2) + q N(1, s^2).
struct PrivacyLosses {
  PrivacyLoss remove;  ///< outputs come from the data set with the unit
  PrivacyLoss add;     ///< outputs come from the one without
};

/// Losses of the sampled Gaussian. A loss between two points of the grid is divided between them such that
/// the probabilities under both neighbours are kept. So delta is exact at every point of the grid, and above
/// the true value between points (Doroshenko et al. 2022, "Connect the dots", section 4). Beyond `reach`
/// standard deviations of the noise, losses are rounded up, large ones to infinity.
PrivacyLosses sampled_gaussian_losses(double noise_multiplier, double sampling_rate, double interval,
                                      double reach);

/// Number of grid points that sampled_gaussian_losses() needs.
std::int64_t loss_points(double noise_multiplier, double sampling_rate, double interval, double reach);

}  // namespace conclave
