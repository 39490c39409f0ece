#include "federated/privacy/noisy_sum.h"

#include <cmath>

#include "core/error.h"

namespace conclave {
namespace {

// Least number of steps in one standard deviation. It is so large that rounding costs almost no privacy even
// for a million coordinates (a thousandth of the noise), and so small that f32 can represent a step beside
// the noise.
constexpr double kSteps = 1 << 20;

}  // namespace

double NoisySum::step() const { return std::exp2(std::floor(std::log2(noise_multiplier * bound / kSteps))); }

double NoisySum::sensitivity() const { return bound + step() * std::sqrt(static_cast<double>(coordinates)); }

SumNoise::SumNoise(const NoisySum& release) {
  require(release.bound > 0 && std::isfinite(release.bound) && release.noise_multiplier >= 0,
          "noise: norms of at most {}, times {}", release.bound, release.noise_multiplier);
  if (release.noise_multiplier == 0) return;
  step_ = release.step();
  const double deviation = release.deviation() / step_;
  steps_.emplace(static_cast<std::uint64_t>(std::ceil(deviation * deviation)));
}

// Rounds each sum to a multiple of `step` and adds noise.
template <class Number>
void SumNoise::add(double step, RandomSource& random, std::span<Number> sums) const {
  if (!steps_) return;
#pragma omp parallel if (sums.size() > 1024)  // an Error in here ends the program: nothing is released
  {
    RandomBits bits(random);
#pragma omp for schedule(static)
    for (std::size_t i = 0; i < sums.size(); ++i) {
      const double steps =
          std::nearbyint(static_cast<double>(sums[i]) / step) + static_cast<double>(steps_->draw(bits));
      sums[i] = static_cast<Number>(steps * step);
    }
  }
}

void SumNoise::add_to(RandomSource& random, std::span<float> sums) const { add(step_, random, sums); }

void SumNoise::add_to_steps(RandomSource& random, std::span<double> steps) const { add(1, random, steps); }

}  // namespace conclave
