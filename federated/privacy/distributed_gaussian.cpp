#include "federated/privacy/distributed_gaussian.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"

namespace conclave {

double concentration(const DistributedGaussian& mechanism) {
  const auto [variance, sites, sensitivity, dimension] = mechanism;
  require(variance > 0 && sites >= 1 && sensitivity >= 0 && dimension >= 1 && std::isfinite(variance) &&
              std::isfinite(sensitivity),
          "distributed noise: variance {}, {} sites, sensitivity {}, dimension {}; expected a sensitivity of "
          "at least 0 and the others above 0",
          variance, sites, sensitivity, dimension);
  const auto count = static_cast<double>(sites);
  // The terms decrease towards e^(-2 pi^2 variance). Those from number 10^6 on are replaced by an upper
  // bound.
  double tau = 0;
  constexpr std::int64_t kSummed = 1'000'000;
  for (std::int64_t k = 1; k < std::min(sites, kSummed); ++k)
    tau += std::exp(-2 * M_PI * M_PI * variance * static_cast<double>(k) / static_cast<double>(k + 1));
  if (sites > kSummed)
    tau += static_cast<double>(sites - kSummed) *
           std::exp(-2 * M_PI * M_PI * variance * static_cast<double>(kSummed) / (kSummed + 1.0));
  tau *= 10;
  const double gaussian = sensitivity / std::sqrt(count * variance);
  const double apart = gaussian + std::sqrt(static_cast<double>(dimension)) * tau;
  require(apart * apart <= 1.1 * gaussian * gaussian || sensitivity == 0,
          "distributed noise: a variance of {} in integers is too small for sums of {} sites to be like a "
          "Gaussian; "
          "multiply by more before rounding",
          variance, sites);
  return sensitivity == 0 ? 0 : apart * apart / 2;
}

double rounded_norm(double norm, double scale, std::int64_t dimension) {
  return scale * norm + std::sqrt(static_cast<double>(dimension));
}

}  // namespace conclave
