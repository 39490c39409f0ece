#include <catch2/catch.hpp>
#include <set>

#include "core/random.h"

namespace conclave {
namespace {

using Bits = std::array<std::uint32_t, 4>;

TEST_CASE("random bits are those of Philox4x32-10", "[random]") {
  // kat_vectors of the Random123 distribution. Its four counter words are: block low, block high, step,
  // tensor.
  CHECK(RandomStream{.seed = 0, .step = 0, .tensor = 0}.bits(0) ==
        Bits{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8});
  CHECK(RandomStream{.seed = ~0ull, .step = ~0u, .tensor = ~0u}.bits(~0ull) ==
        Bits{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd});
  CHECK(RandomStream{.seed = 0x299f31d0a4093822, .step = 0x13198a2e, .tensor = 0x03707344}.bits(
            0x85a308d3243f6a88) == Bits{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1});
}

TEST_CASE("seed, step, tensor and index each change the numbers", "[random]") {
  std::set<double> seen;
  for (const RandomStream& stream : {RandomStream{1, 2, 3}, RandomStream{2, 2, 3}, RandomStream{1, 3, 3},
                                     RandomStream{1, 2, 4}, RandomStream{1ull << 32, 2, 3}})
    for (std::uint64_t i = 0; i < 100; ++i) seen.insert(stream.uniform(i));
  CHECK(seen.size() == 500);
}

TEST_CASE("uniform numbers have the moments of U[0, 1)", "[random]") {
  const RandomStream stream{.seed = 42, .step = 1, .tensor = 2};
  constexpr int kCount = 200000;
  double sum = 0, squares = 0, lag = 0, previous = 0.5;
  for (int i = 0; i < kCount; ++i) {
    const double value = stream.uniform(static_cast<std::uint64_t>(i));
    REQUIRE((value >= 0 && value < 1));
    sum += value;
    squares += (value - 0.5) * (value - 0.5);
    lag += (value - 0.5) * (previous - 0.5);
    previous = value;
  }
  // The margins are five standard deviations of each mean.
  CHECK(sum / kCount == Approx(0.5).margin(5 * 0.2887 / std::sqrt(kCount)));
  CHECK(squares / kCount == Approx(1.0 / 12).margin(5 * 0.0745 / std::sqrt(kCount)));
  CHECK(lag / kCount == Approx(0).margin(5.0 / 12 / std::sqrt(kCount)));
}

TEST_CASE("normal numbers have the moments of N(0, 1)", "[random]") {
  const RandomStream stream{.seed = 43, .step = 0, .tensor = 0};
  constexpr int kCount = 200000;
  double moments[5] = {};
  int beyond_two = 0;
  for (int i = 0; i < kCount; ++i) {
    const double value = stream.normal(static_cast<std::uint64_t>(i));
    double power = 1;
    for (double& moment : moments) {
      moment += power / kCount;
      power *= value;
    }
    beyond_two += std::fabs(value) > 2;
  }
  const double error = 5 / std::sqrt(kCount);
  CHECK(moments[1] == Approx(0).margin(error));
  CHECK(moments[2] == Approx(1).margin(error * std::sqrt(2.0)));
  CHECK(moments[3] == Approx(0).margin(error * std::sqrt(15.0)));
  CHECK(moments[4] == Approx(3).margin(error * std::sqrt(96.0)));
  CHECK(beyond_two / double(kCount) == Approx(0.0455).margin(error * 0.21));
}

TEST_CASE("bounded numbers take every value about equally often", "[random]") {
  const RandomStream stream{.seed = 44, .step = 0, .tensor = 0};
  int counts[7] = {};
  for (std::uint64_t i = 0; i < 70000; ++i) ++counts[stream.below(7, i)];
  for (const int count : counts) CHECK(count == Approx(10000).margin(500));
}

}  // namespace
}  // namespace conclave
