#include "federated/privacy/noisy_sum.h"

#include <cmath>

#include "core/error.h"
#include "federated/privacy/discrete_gaussian.h"

namespace conclave {
namespace {

// Steps in a deviation, at least: so many that rounding costs next to no privacy, where coordinates are a
// million (a thousandth of the noise), and so few that a step is seen in f32 beside the noise.
constexpr double kSteps = 1 << 20;

// To sums whose grid is of `step`.
template <class Number>
void add(const NoisySum& release, double step, RandomSource& random, std::span<Number> sums) {
  require(release.bound > 0 && std::isfinite(release.bound) && release.noise_multiplier >= 0,
          "noise: norms of at most {}, times {}", release.bound, release.noise_multiplier);
  if (release.noise_multiplier == 0) return;
  const double deviation = release.deviation() / release.step();
  const auto variance = static_cast<std::uint64_t>(std::ceil(deviation * deviation));
#pragma omp parallel if (sums.size() > 1024)  // no randomness ends the program: nothing was released
  {
    RandomBits bits(random);
    DiscreteGaussian noise(bits, variance);
#pragma omp for schedule(static)
    for (std::size_t i = 0; i < sums.size(); ++i) {
      const double steps =
          std::nearbyint(static_cast<double>(sums[i]) / step) + static_cast<double>(noise.next());
      sums[i] = static_cast<Number>(steps * step);
    }
  }
}

}  // namespace

double NoisySum::step() const { return std::exp2(std::floor(std::log2(noise_multiplier * bound / kSteps))); }

double NoisySum::sensitivity() const { return bound + step() * std::sqrt(static_cast<double>(coordinates)); }

void add_noise(const NoisySum& release, RandomSource& random, std::span<float> sums) {
  add(release, release.step(), random, sums);
}

void add_noise_steps(const NoisySum& release, RandomSource& random, std::span<double> steps) {
  add(release, 1, random, steps);
}

}  // namespace conclave
