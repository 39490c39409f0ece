// The privacy loss of one release, on a grid, rounded so that no attacker sees more.
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

/// Neighbours without the unit, and with it, are N(0, s^2) and (1 - q) N(0, s^2) + q N(1, s^2).
struct PrivacyLosses {
  PrivacyLoss remove;  ///< outputs come from those with the unit
  PrivacyLoss add;     ///< outputs come from those without
};

/// Of the sampled Gaussian. A loss between two points of the grid is divided between them so that the
/// probabilities under both neighbours are kept, and with them delta at every point of the grid; between
/// points delta is above the truth (Doroshenko et al. 2022, "Connect the dots", section 4). Beyond `reach`
/// standard deviations of the noise, losses are rounded up, to infinity where they are large.
PrivacyLosses sampled_gaussian_losses(double noise_multiplier, double sampling_rate, double interval,
                                      double reach);

/// How many points that takes.
std::int64_t loss_points(double noise_multiplier, double sampling_rate, double interval, double reach);

}  // namespace conclave
