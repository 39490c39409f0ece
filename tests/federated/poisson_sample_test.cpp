#include "federated/privacy/poisson_sample.h"

#include <catch2/catch.hpp>
#include <cmath>
#include <map>

#include "core/error.h"

using namespace conclave;

TEST_CASE("poisson_sample: units are drawn independently, with the rate, at most once") {
  SystemRandom random;
  RandomBits bits(random);
  std::vector<std::int64_t> drawn{-1};
  std::map<std::int64_t, int> taken;
  std::map<std::size_t, int> sizes;
  constexpr int kTimes = 20000;
  int both = 0;
  for (int i = 0; i < kTimes; ++i) {
    poisson_sample(bits, 0.25, 1, 18, 4, drawn);  // from 1, 5, 9, 13, 17
    for (const std::int64_t one : drawn) ++taken[one];
    ++sizes[drawn.size()];
    CHECK(std::ranges::is_sorted(drawn));
    both += std::ranges::count(drawn, 1) + std::ranges::count(drawn, 17) == 2;
  }
  // Within six standard deviations.
  const auto near = [](int count, double share) {
    return std::abs(count - share * kTimes) < 6 * std::sqrt(kTimes * share * (1 - share));
  };
  REQUIRE(taken.size() == 5);
  for (const auto& [one, times] : taken) CHECK(near(times, 0.25));
  CHECK(near(both, 0.0625));
  CHECK(near(sizes[0], std::pow(0.75, 5)));  // empty samples count, too
  CHECK(near(sizes[2], 10 * std::pow(0.25, 2) * std::pow(0.75, 3)));
}

TEST_CASE("poisson_sample: rate 0 draws nothing, 1 everything, and 1.5 is refused") {
  SystemRandom random;
  RandomBits bits(random);
  std::vector<std::int64_t> drawn;
  poisson_sample(bits, 1, 0, 5, 2, drawn);
  CHECK(drawn == std::vector<std::int64_t>{0, 2, 4});
  poisson_sample(bits, 0, 0, 5, 2, drawn);
  CHECK(drawn.empty());
  CHECK_THROWS_AS(poisson_sample(bits, 1.5, 0, 5, 2, drawn), Error);
}
