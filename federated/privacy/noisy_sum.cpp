#include "federated/privacy/noisy_sum.h"

#include <cmath>
#include <numbers>

#include "core/error.h"

namespace conclave {
namespace {

// Steps in a deviation, at least: so many that rounding costs next to no privacy, where coordinates are a
// million (a thousandth of the noise), and so few that a step is seen in f32 beside the noise.
constexpr double kSteps = 1 << 20;

// In (0, 1].
double uniform(RandomBits& bits) { return std::ldexp(static_cast<double>((bits.next() >> 11) + 1), -53); }

}  // namespace

double NoisySum::step() const { return std::exp2(std::floor(std::log2(noise_multiplier * bound / kSteps))); }

double NoisySum::sensitivity() const { return bound + step() * std::sqrt(static_cast<double>(coordinates)); }

void add_noise(const NoisySum& release, RandomBits& bits, std::span<float> sums) {
  require(release.bound > 0 && std::isfinite(release.bound) && release.noise_multiplier >= 0,
          "noise: norms of at most {}, times {}", release.bound, release.noise_multiplier);
  if (release.noise_multiplier == 0) return;
  const double step = release.step(), deviation = release.deviation() / step;
  for (std::size_t i = 0; i < sums.size(); i += 2) {
    // Box and Muller 1958; of each two, one for the next coordinate.
    const double radius = deviation * std::sqrt(-2 * std::log(uniform(bits))),
                 angle = 2 * std::numbers::pi * uniform(bits);
    const auto add = [&](float& sum, double noise) {
      sum = static_cast<float>((std::nearbyint(static_cast<double>(sum) / step) + std::nearbyint(noise)) *
                               step);
    };
    add(sums[i], radius * std::cos(angle));
    if (i + 1 < sums.size()) add(sums[i + 1], radius * std::sin(angle));
  }
}

}  // namespace conclave
