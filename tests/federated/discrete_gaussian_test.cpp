#include "federated/privacy/discrete_gaussian.h"

#include <catch2/catch.hpp>
#include <cmath>
#include <ctime>
#include <iostream>
#include <map>
#include <random>
#include <vector>

#include "core/error.h"
#include "scripted_random.h"

namespace conclave {
namespace {

// A fixed seed, so that statistical tests give the same result in every run.
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
TEST_CASE("DiscreteGaussian: draws have the right probabilities and moments") {
  struct Variance {
    std::uint64_t numerator, denominator;
  };
  Seeded source;
  RandomBits bits(source);
  for (const Variance& variance : {Variance{1, 8}, Variance{2, 3}, Variance{9, 1}, Variance{24001, 10}}) {
    constexpr int kDraws = 2'500'000;
    const double s2 = static_cast<double>(variance.numerator) / static_cast<double>(variance.denominator);
    INFO("variance " << s2);
    const DiscreteGaussian noise(variance.numerator, variance.denominator);
    std::map<std::int64_t, int> counts;
    for (int i = 0; i < kDraws; ++i) ++counts[noise.draw(bits)];

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

TEST_CASE("DiscreteGaussian: the largest and the least variance work") {
  Seeded source;
  RandomBits bits(source);
  for (const double exponent : {44.0, 43.0, 30.0}) {
    const double deviation = std::exp2(exponent / 2);
    const DiscreteGaussian noise(static_cast<std::uint64_t>(std::exp2(exponent)));
    constexpr int kDraws = 20'000;
    double first = 0, second = 0;
    int beyond = 0;
    for (int i = 0; i < kDraws; ++i) {
      const double x = static_cast<double>(noise.draw(bits)) / deviation;
      first += x, second += x * x, beyond += std::fabs(x) > 1;
    }
    CHECK(std::fabs(first / kDraws) < 4 / std::sqrt(kDraws));
    CHECK(std::fabs(second / kDraws - 1) < 4 * std::sqrt(2.0 / kDraws));
    CHECK(beyond / double(kDraws) == Approx(0.3173).margin(4 * 0.4655 / std::sqrt(kDraws)));
  }
  const DiscreteGaussian narrow(1, 1 << 20);
  for (int i = 0; i < 1000; ++i) CHECK(narrow.draw(bits) == 0);
}

// The word that a draw begins with: slot, sign, position in the slot's cell, and the first 32 binary digits
// of the uniform number that decides whether the draw is accepted.
struct Word {
  std::uint64_t slot, negative = 0, low = 0, uniform = 0;
  std::uint64_t value() const { return slot | negative << 12 | low << 13 | uniform << 32; }
};

// The number drawn from `word`. `digits` are the uniform number's further digits. If they are kOnes, the
// result is negative when the word is rejected, because later words give no other numbers.
std::int64_t drawn(const DiscreteGaussian& noise, const Word& word, std::uint64_t digits) {
  ScriptedRandom source({word.value(), digits, digits}, Word{.slot = 2500, .negative = 1}.value());
  RandomBits bits(source);
  return noise.draw(bits);
}

// For how many of the 2^32 values of `uniform` the word is accepted, found by bisection.
std::uint64_t kept(const DiscreteGaussian& noise, Word word, std::uint64_t digits) {
  const std::int64_t number = drawn(noise, word, digits);
  std::uint64_t count = 0;
  for (std::uint64_t bit = std::uint64_t{1} << 31; bit > 0; bit /= 2) {
    word.uniform = count + bit - 1;
    if (drawn(noise, word, digits) == number) count += bit;
  }
  return count;
}

constexpr std::uint64_t kOnes = ~std::uint64_t{0};

// Counts of all words, not estimates from draws.
TEST_CASE("DiscreteGaussian: the share of words that give a number is its probability") {
  for (const int variance : {1, 7, 400, 1780}) {
    INFO("variance " << variance);
    const double width = variance < 1024 ? 1 : 2;  // numbers per cell; low = 0 gives the first one
    const DiscreteGaussian noise(static_cast<std::uint64_t>(variance));
    std::map<std::int64_t, double> words, slots;
    for (std::uint64_t slot = 0; slot < 4096; ++slot) {
      const std::int64_t number = drawn(noise, {.slot = slot}, kOnes);
      if (number < 0) continue;  // an unused slot
      ++slots[number];
      words[number] += static_cast<double>(kept(noise, {.slot = slot}, kOnes));
    }
    const double cells = std::ceil(6 * std::sqrt(variance) / width);  // one more for the tail
    REQUIRE(static_cast<double>(words.size()) == cells + 1);
    for (const auto& [number, count] : words) {
      const double square = static_cast<double>(number * number);
      // The tail's number is chosen less often than one in a cell, by this factor, and accepted more often.
      const double share = static_cast<double>(number) < cells * width ? 1 : 2 * cells;
      const double wanted = share * words[0] * std::exp(-square / (2 * variance));
      INFO(number << ": " << count << " of " << wanted);
      CHECK(std::fabs(count - wanted) <= slots[number] + 2);
    }
  }
}

TEST_CASE("DiscreteGaussian: further digits decide if the first 32 do not") {
  constexpr std::uint64_t kWidth = 1 << 15;
  const double s2 = 0x1p40 - 1;
  const DiscreteGaussian noise((std::uint64_t{1} << 40) - 1);
  for (const std::uint64_t slot : {0u, 100u, 1000u, 2500u, 4000u}) {
    const auto first = static_cast<double>(drawn(noise, {.slot = slot}, 0));
    CHECK(std::fmod(first, kWidth) == 0);
    const double slots = static_cast<double>(kept(noise, {.slot = slot}, kOnes));
    for (const std::uint64_t low : {std::uint64_t{1}, kWidth / 3, kWidth - 1}) {
      const Word word{.slot = slot, .low = low};
      INFO("slot " << slot << ", " << low);
      const std::uint64_t surely = kept(noise, word, kOnes);
      CHECK(kept(noise, word, 0) == surely + 1);
      const double x = first + static_cast<double>(low);
      CHECK(std::fabs(static_cast<double>(surely) - slots * std::exp((first * first - x * x) / (2 * s2))) <
            3);
    }
  }
}

TEST_CASE("DiscreteGaussian: variances out of range are refused") {
  CHECK_THROWS_WITH(DiscreteGaussian(0), Catch::Contains("variance of 0 / 1"));
  CHECK_THROWS_AS(DiscreteGaussian(1, 0), Error);
  CHECK_THROWS_AS(DiscreteGaussian((std::uint64_t{1} << 44) + 1), Error);
  CHECK_THROWS_AS(DiscreteGaussian(1, (std::uint64_t{1} << 20) + 1), Error);
}

// A benchmark: unit_tests "[draws]"
TEST_CASE("DiscreteGaussian: speed of draws from the system's generator", "[.][draws]") {
  SystemRandom system;
  RandomBits bits(system);
  for (const std::uint64_t variance : {1ull, 100ull, 10'000ull, 1ull << 20, 1ull << 40}) {
    const DiscreteGaussian noise(variance);
    std::vector<std::int64_t> values(30'000'000);
    const std::clock_t start = std::clock();  // processor time: other processes may be running
    for (std::int64_t& value : values) value = noise.draw(bits);
    const double taken = static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC;
    std::cout << "variance " << variance << ": " << static_cast<double>(values.size()) / taken / 1e6
              << " million draws per second of one core\n";
  }
}

}  // namespace conclave
