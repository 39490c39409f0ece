#include "federated/secure_aggregation/shared_noise.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "federated/privacy/discrete_gaussian.h"

namespace conclave::secure_aggregation {
namespace {

constexpr double kDeviations = 12;          // of one site's noise, for which words have room
constexpr double kMostDeviation = 1 << 21;  // of one site's noise: the sampler's limit
constexpr double kLeastVariance = 100;  // from it on, a sum of discrete Gaussians is one, to e^-(pi^2 100)
constexpr double kMostRounding = 0.1;   // as a fraction of what a unit changes

}  // namespace

NoisyFormat NoisyFormat::choose(const Agreement& agreement, double clip, const SharedNoise& noise) {
  const std::size_t sites = agreement.sites.size();
  if (noise.noise_multiplier == 0) return {FixedPoint::choose(agreement.ring, sites, clip)};
  require(noise.noise_multiplier > 0 && std::isfinite(noise.noise_multiplier) && noise.sensitivity > 0 &&
              std::isfinite(noise.sensitivity) && agreement.least >= 1,
          "secure aggregation: noise of {} times {}, in sums of {} sites", noise.noise_multiplier,
          noise.sensitivity, agreement.least);
  // With s integers per unit of value, one privacy unit changes the sum by s * sensitivity + r of them, r
  // from rounding. A site's deviation is `share` times that. Take the largest s for which words have room for
  // clip * s and for the noise, and for which there is a sampler:
  const double rounding = std::sqrt(static_cast<double>(agreement.length));
  const double share = noise.noise_multiplier / std::sqrt(static_cast<double>(agreement.least));
  const auto room = static_cast<double>(agreement.ring.most_each(sites));
  const double by_room =
      (room - 1 - kDeviations * share * rounding) / (clip + kDeviations * share * noise.sensitivity);
  const double by_sampler = (kMostDeviation / share - rounding) / noise.sensitivity;
  const double most = std::min(by_room, by_sampler);
  require(most * noise.sensitivity * kMostRounding >= rounding,
          "secure aggregation: in words of {} bytes, rounding {} numbers would add more than a tenth to what "
          "one unit changes in their sum; take wider words, or a clip_norm nearer to {}",
          agreement.ring.width, agreement.length, noise.sensitivity);
  const double deviation = share * (most * noise.sensitivity + rounding);
  const std::int64_t left = agreement.ring.most_each(sites) - static_cast<std::int64_t>(most * clip);
  const NoisyFormat result{FixedPoint::choose(agreement.ring, sites, clip, left),
                           static_cast<std::uint64_t>(std::ceil(deviation * deviation))};
  require(static_cast<double>(result.variance) >= kLeastVariance,
          "secure aggregation: the noise of a site has a deviation of {} integers, which is too small for "
          "the sum to be a Gaussian; take wider words, or more noise",
          deviation);
  return result;
}

void NoisyFormat::add_share(std::span<std::int64_t> numbers, RandomBits& random) const {
  if (variance == 0) return;
  const DiscreteGaussian noise(variance);
  for (std::int64_t& number : numbers) number += noise.draw(random);
}

}  // namespace conclave::secure_aggregation
