#include "federated/secure_aggregation/shared_noise.h"

#include <catch2/catch.hpp>
#include <cmath>
#include <numeric>

#include "core/error.h"

namespace conclave::secure_aggregation {
namespace {

Agreement among(std::size_t sites, std::size_t width, std::uint64_t length) {
  std::vector<std::string> names;
  for (std::size_t i = 0; i < sites; ++i) names.push_back("site-" + std::to_string(i));
  return Agreement::among("test", 1, names, {width}, length);
}

TEST_CASE("NoisyFormat: the fewest sites' shares are enough noise, with rounding", "[shared_noise]") {
  for (const std::size_t sites : {3, 10, 100})
    for (const std::size_t width : {4, 8})
      for (const double clip : {0.5, 100.0}) {
        const Agreement agreement = among(sites, width, 250'000);
        const SharedNoise noise{.sensitivity = 0.5, .noise_multiplier = 1.7};
        const auto [format, variance] = NoisyFormat::choose(agreement, clip, noise);
        CAPTURE(sites, width, clip, format.scale, variance);
        const double changed = format.scale * noise.sensitivity + 500;  // each of 250,000 numbers by one more
        const double deviation = std::sqrt(static_cast<double>(variance));
        CHECK(std::sqrt(agreement.least) * deviation >= noise.noise_multiplier * changed);
        CHECK(std::sqrt(agreement.least) * deviation <= 1.001 * noise.noise_multiplier * changed);
        CHECK(static_cast<double>(format.levels) + 12 * deviation <=
              static_cast<double>(agreement.ring.most_each(sites)));
        CHECK(format.scale * clip <= static_cast<double>(format.levels));
      }
}

TEST_CASE("NoisyFormat: shares are large enough that their sum acts as one Gaussian", "[shared_noise]") {
  using Catch::Matchers::Contains;
  const Agreement agreement = among(10, 2, 10);
  CHECK_THROWS_WITH(NoisyFormat::choose(agreement, 1, {.sensitivity = 1, .noise_multiplier = 0.005}),
                    Contains("too small for the sum to be a Gaussian"));
  // Kairouz, Liu and Steinke 2021, proposition 14. By how many standard deviations of the noise a unit of
  // this norm moves the sum, if each of `sites` shares has this variance.
  const auto moved = [](double variance, double sites, double norm, double dimension) {
    double tau = 0;
    for (double k = 1; k < sites; ++k) tau += 10 * std::exp(-2 * M_PI * M_PI * variance * k / (k + 1));
    return norm / std::sqrt(sites * variance) + std::sqrt(dimension) * tau;
  };
  CHECK(moved(1, 10, 5, 1e6) > 1.3 * moved(1, 10, 5, 0));
  for (const double multiplier : {0.01, 0.1, 1.0}) {
    const auto [format, variance] =
        NoisyFormat::choose(agreement, 1, {.sensitivity = 1, .noise_multiplier = multiplier});
    CAPTURE(multiplier, variance);
    const double norm = format.scale + std::sqrt(static_cast<double>(agreement.length));
    const double sites = static_cast<double>(agreement.least);
    CHECK(moved(static_cast<double>(variance), sites, norm, 1e9) <= 1 / multiplier);
  }
}

TEST_CASE("NoisyFormat: a share has the chosen variance, or is zero without noise", "[shared_noise]") {
  const Agreement agreement = among(5, 4, 100'000);
  SystemRandom source;
  RandomBits random(source);
  std::vector<std::int64_t> numbers(agreement.length);
  const NoisyFormat plain = NoisyFormat::choose(agreement, 2, {});
  plain.add_share(numbers, random);
  CHECK(numbers == std::vector<std::int64_t>(agreement.length));
  CHECK(plain.format.scale == FixedPoint::choose(agreement.ring, 5, 2).scale);
  const NoisyFormat noisy = NoisyFormat::choose(agreement, 2, {.sensitivity = 2, .noise_multiplier = 1});
  noisy.add_share(numbers, random);
  const double squares = std::inner_product(
      numbers.begin(), numbers.end(), numbers.begin(), 0.0, std::plus<>(),
      [](std::int64_t a, std::int64_t b) { return static_cast<double>(a) * static_cast<double>(b); });
  // The sum of squares is chi-square with 10^5 degrees of freedom. Five standard deviations.
  CHECK(squares / static_cast<double>(noisy.variance) / 1e5 == Approx(1).margin(5 * std::sqrt(2e-5)));
}

TEST_CASE("NoisyFormat: words too narrow for the noise are refused with advice", "[shared_noise]") {
  using Catch::Matchers::Contains;
  const SharedNoise noise{.sensitivity = 0.1, .noise_multiplier = 1};
  CHECK_THROWS_WITH(NoisyFormat::choose(among(10, 2, 250'000), 100, noise), Contains("take wider words"));
  CHECK_NOTHROW(NoisyFormat::choose(among(10, 4, 250'000), 100, noise));
  CHECK_THROWS_AS(NoisyFormat::choose(among(3, 4, 10), 1, {.sensitivity = 1, .noise_multiplier = -1}), Error);
  CHECK_THROWS_AS(NoisyFormat::choose(among(3, 4, 10), 1, {.sensitivity = 1, .noise_multiplier = NAN}),
                  Error);
}

}  // namespace
}  // namespace conclave::secure_aggregation
