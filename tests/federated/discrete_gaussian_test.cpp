#include "federated/privacy/discrete_gaussian.h"

#include <catch2/catch.hpp>
#include <cmath>
#include <ctime>
#include <iostream>
#include <map>
#include <random>
#include <vector>

#include "core/error.h"

namespace conclave {
namespace {

// The same numbers each time, so that no test fails once in a while.
class Seeded : public RandomSource {
 public:
  void fill(std::span<std::byte> out) override {
    auto* words = reinterpret_cast<std::uint64_t*>(out.data());
    for (std::size_t i = 0; i < out.size() / 8; ++i) words[i] = generator_();
  }

 private:
  std::mt19937_64 generator_{20};
};

}  // namespace

// 10^7 draws over all variances.
TEST_CASE("draws have the discrete Gaussian's probabilities and moments") {
  struct Variance {
    std::uint64_t numerator, denominator;
  };
  Seeded source;
  RandomBits bits(source);
  for (const Variance& variance : {Variance{1, 8}, Variance{2, 3}, Variance{9, 1}, Variance{24001, 10}}) {
    constexpr int kDraws = 2'500'000;
    const double s2 = static_cast<double>(variance.numerator) / static_cast<double>(variance.denominator);
    INFO("variance " << s2);
    DiscreteGaussian draw(bits, variance.numerator, variance.denominator);
    std::map<std::int64_t, int> counts;
    for (int i = 0; i < kDraws; ++i) ++counts[draw.next()];

    const auto most = static_cast<std::int64_t>(40 * std::sqrt(s2) + 40);
    double all = 0, squares = 0, fourths = 0, eighths = 0;
    for (std::int64_t x = -most; x <= most; ++x) {
      const double square = static_cast<double>(x * x), weight = std::exp(-square / (2 * s2));
      all += weight, squares += weight * square, fourths += weight * square * square;
      eighths += weight * std::pow(square, 4);
    }
    squares /= all, fourths /= all, eighths /= all;

    double statistic = 0, rest_expected = kDraws, rest = kDraws, first = 0, second = 0, fourth = 0;
    int freedom = 0;
    for (std::int64_t x = -most; x <= most; ++x) {
      const double square = static_cast<double>(x * x);
      const double expected = kDraws * std::exp(-square / (2 * s2)) / all;
      const auto found = counts.find(x);
      const double count = found == counts.end() ? 0 : found->second;
      first += count * static_cast<double>(x), second += count * square, fourth += count * square * square;
      if (expected < 20) continue;
      statistic += (count - expected) * (count - expected) / expected;
      rest_expected -= expected, rest -= count;
      ++freedom;
    }
    if (rest_expected > 1) statistic += (rest - rest_expected) * (rest - rest_expected) / rest_expected;
    INFO("chi square " << statistic << " of " << freedom << " degrees of freedom");
    CHECK(std::fabs(statistic - freedom) < 4 * std::sqrt(2.0 * freedom) + 4);
    // four standard deviations of each mean
    CHECK(std::fabs(first / kDraws) < 4 * std::sqrt(squares / kDraws));
    CHECK(std::fabs(second / kDraws - squares) < 4 * std::sqrt((fourths - squares * squares) / kDraws));
    CHECK(std::fabs(fourth / kDraws - fourths) < 4 * std::sqrt((eighths - fourths * fourths) / kDraws));
  }
}

TEST_CASE("the largest variance is drawn, and the least") {
  Seeded source;
  RandomBits bits(source);
  for (const double exponent : {44.0, 43.0, 30.0}) {
    const double deviation = std::exp2(exponent / 2);
    DiscreteGaussian draw(bits, static_cast<std::uint64_t>(std::exp2(exponent)));
    constexpr int kDraws = 20'000;
    double first = 0, second = 0;
    int beyond = 0;
    for (int i = 0; i < kDraws; ++i) {
      const double x = static_cast<double>(draw.next()) / deviation;
      first += x, second += x * x, beyond += std::fabs(x) > 1;
    }
    CHECK(std::fabs(first / kDraws) < 4 / std::sqrt(kDraws));
    CHECK(std::fabs(second / kDraws - 1) < 4 * std::sqrt(2.0 / kDraws));
    CHECK(beyond / double(kDraws) == Approx(0.3173).margin(4 * 0.4655 / std::sqrt(kDraws)));
  }
  DiscreteGaussian narrow(bits, 1, 1 << 20);
  for (int i = 0; i < 1000; ++i) CHECK(narrow.next() == 0);
}

TEST_CASE("noise is added to each value, modulo 2^64") {
  Seeded source, same;
  RandomBits bits(source), other(same);
  DiscreteGaussian draw(bits, 400), again(other, 400);
  std::vector<std::uint64_t> values(1000, 5);
  draw.add_to(values);
  for (const std::uint64_t value : values) REQUIRE(value == 5 + static_cast<std::uint64_t>(again.next()));
}

TEST_CASE("variances that would overflow are refused") {
  SystemRandom system;
  RandomBits bits(system);
  CHECK_THROWS_WITH(DiscreteGaussian(bits, 0), Catch::Contains("variance of 0 / 1"));
  CHECK_THROWS_AS(DiscreteGaussian(bits, 1, 0), Error);
  CHECK_THROWS_AS(DiscreteGaussian(bits, (std::uint64_t{1} << 44) + 1), Error);
  CHECK_THROWS_AS(DiscreteGaussian(bits, 1, (std::uint64_t{1} << 20) + 1), Error);
}

// unit_tests "[draws]"
TEST_CASE("how fast the system's generator is made noise of", "[.][draws]") {
  SystemRandom system;
  RandomBits bits(system);
  for (const std::uint64_t variance : {1ull, 100ull, 10'000ull, 1ull << 20, 1ull << 40}) {
    DiscreteGaussian draw(bits, variance);
    std::vector<std::uint64_t> values(3'000'000);
    const std::clock_t start = std::clock();  // processor time, as others may be at work
    draw.add_to(values);
    const double taken = static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC;
    std::cout << "variance " << variance << ": " << static_cast<double>(values.size()) / taken / 1e6
              << " million draws per second of one core\n";
  }
}

}  // namespace conclave
