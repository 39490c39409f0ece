// The noise of simulated rounds is as large as epsilon assumes.
#include "recipes/federated/client_privacy.h"

#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <numeric>

namespace conclave {
namespace {

double deviation_of(const std::vector<double>& values) {
  const double squares = std::inner_product(values.begin(), values.end(), values.begin(), 0.0);
  return std::sqrt(squares / static_cast<double>(values.size()));
}

TEST_CASE("where the clip norm adapts, updates have more noise, by what the count tells",
          "[client_privacy]") {
  constexpr double kNoise = 1.3, kCountNoise = 0.6 * kNoise, kClip = 0.7;
  constexpr std::size_t kElements = 40'000, kCounts = 4'000;
  SimulationTable simulation;
  simulation.clients = 1000, simulation.cohort = 100, simulation.rounds = 10;
  SystemRandom random;
  for (const bool adaptive : {false, true}) {
    CAPTURE(adaptive);
    ClientPrivacy privacy({.clip_norm = kClip,
                           .noise_multiplier = kNoise,
                           .adaptive = adaptive,
                           .count_noise = adaptive ? kCountNoise : 0},
                          simulation, kElements, random);
    // Nobody took part, so that the sums are the noise.
    std::vector<double> sums(kElements + 1);
    privacy.add_noise(sums, 0, sums.size());
    std::vector<float> update(kElements);
    privacy.release(sums, update);
    // Andrew et al. 2021, theorem 1.
    const double of_updates =
        adaptive ? 1 / std::sqrt(1 / (kNoise * kNoise) - 1 / (4 * kCountNoise * kCountNoise)) : kNoise;
    // Six standard deviations of what so many numbers come to, and what rounding adds to a client's norm.
    const double expected = of_updates * kClip / 100, margin = 6 / std::sqrt(2.0 * kElements) + 1e-3;
    CHECK(deviation_of({update.begin(), update.end()}) / expected == Approx(1).margin(margin));
    CHECK(privacy.epsilon(10) == epsilon_of({kNoise, 0.1, 10}, 1e-5, kAccountant));
    if (!adaptive) {
      CHECK(sums.back() == 0);
      continue;
    }
    double half = 0;  // a client within the norm, in steps of the count
    CHECK(privacy.clip(0, half) == 1);
    std::vector<double> counts(kCounts);
    for (double& count : counts) {
      std::ranges::fill(sums, 0.0);
      privacy.add_noise(sums, kElements, kElements + 1);
      count = sums.back() * 0.5 / half;
    }
    CHECK(deviation_of(counts) / kCountNoise == Approx(1).margin(6 / std::sqrt(2.0 * kCounts) + 1e-3));
  }
}

}  // namespace
}  // namespace conclave
