#include "federated/privacy/noisy_sum.h"

#include <catch2/catch.hpp>
#include <cmath>
#include <vector>

using namespace conclave;

TEST_CASE("SumNoise: noise has the requested deviation and mean 0") {
  SystemRandom random;
  constexpr int kCoordinates = 400001;
  const NoisySum release{.bound = 0.5, .noise_multiplier = 3, .coordinates = kCoordinates};
  CHECK(release.deviation() == Approx(1.5).epsilon(0.01));
  CHECK(release.deviation() > 1.5);
  std::vector<float> sums(kCoordinates, 7.0f);
  SumNoise(release).add_to(random, sums);
  double sum = 0, squares = 0, fourth = 0, neighbours = 0;
  for (std::size_t i = 0; i < sums.size(); ++i) {
    const double noise = (sums[i] - 7.0) / release.deviation();
    sum += noise;
    squares += noise * noise;
    fourth += noise * noise * noise * noise;
    if (i > 0) neighbours += noise * (sums[i - 1] - 7.0) / release.deviation();
  }
  // Six standard deviations of each estimate.
  const double root = std::sqrt(double{kCoordinates});
  CHECK(std::abs(sum / kCoordinates) < 6 / root);
  CHECK(std::abs(squares / kCoordinates - 1) < 6 * std::sqrt(2) / root);
  CHECK(std::abs(fourth / kCoordinates - 3) < 6 * std::sqrt(96) / root);
  CHECK(std::abs(neighbours / kCoordinates) < 6 / root);
}

TEST_CASE("SumNoise: released sums are on the grid for any input") {
  SystemRandom random;
  const NoisySum release{.bound = 1, .noise_multiplier = 1, .coordinates = 100};
  CHECK(std::log2(release.step()) == std::floor(std::log2(release.step())));
  CHECK(release.step() < 2e-6);
  CHECK(release.sensitivity() == 1 + 10 * release.step());
  std::vector<float> sums(1001);
  for (std::size_t i = 0; i < sums.size(); ++i) sums[i] = 1e-8f * static_cast<float>(i);
  SumNoise(release).add_to(random, sums);
  for (const float sum : sums) CHECK(sum / release.step() == std::nearbyint(sum / release.step()));
  const std::vector<float> before = sums;
  SumNoise({.bound = 1, .noise_multiplier = 0, .coordinates = 100}).add_to(random, sums);
  CHECK(sums == before);
}

TEST_CASE("SumNoise: whole steps stay whole and get the same noise") {
  SystemRandom random;
  constexpr int kCoordinates = 100003;
  const NoisySum release{.bound = 2, .noise_multiplier = 0.5, .coordinates = kCoordinates};
  constexpr double kBefore = 0x1p40 + 1;
  std::vector<double> steps(kCoordinates, kBefore);
  SumNoise(release).add_to_steps(random, steps);
  double squares = 0;
  for (const double step : steps) {
    CHECK_FALSE(step != std::nearbyint(step));
    const double noise = (step - kBefore) * release.step() / release.deviation();
    squares += noise * noise;
  }
  CHECK(std::abs(squares / kCoordinates - 1) < 6 * std::sqrt(2.0 / kCoordinates));
}
