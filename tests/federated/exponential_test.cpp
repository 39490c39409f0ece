#include "federated/privacy/exponential.h"

#include <catch2/catch.hpp>
#include <cmath>
#include <vector>

#include "scripted_random.h"

using namespace conclave;

namespace {

// The first 512 binary digits of e^-1.
const std::vector<std::uint64_t> kInverse{0x5e2d58d8b3bcdf1a, 0xbadec7829054f90d, 0xda9805aab56c7733,
                                          0x3024b9d0a507daed, 0xb16400bf472b4215, 0xb8245b669d90d27a,
                                          0x5aea5550968dc392, 0x29f03c6276dcaa58};

double as_double(const FixedPointNumber& number) {
  double value = 0;
  for (int i = number.digits; i >= 0; --i)
    value = value * 0x1p-64 + static_cast<double>(number.words[static_cast<std::size_t>(i)]);
  return value;
}

// Whether e^-1 is above the number with the binary digits `words`, followed by `rest` again and again.
bool below_inverse(std::vector<std::uint64_t> words, std::uint64_t rest) {
  const auto first = static_cast<std::uint32_t>(words.front() >> 32);
  words.front() <<= 32;
  ScriptedRandom source(words, rest);
  RandomBits bits(source);
  return below_exponential(first, bits, 1, 1, 1, 1);
}

}  // namespace

TEST_CASE("exponential: all requested digits are correct") {
  for (const int digits : {2, 4, 8}) {
    const FixedPointNumber inverse = exponential(7, 7, digits);
    for (int i = 1; i < digits; ++i)
      CHECK(inverse.words[static_cast<std::size_t>(i)] == kInverse[static_cast<std::size_t>(i - 1)]);
    const std::uint64_t last = inverse.words[static_cast<std::size_t>(digits)],
                        wanted = kInverse[static_cast<std::size_t>(digits - 1)];
    CHECK((last > wanted ? last - wanted : wanted - last) <= kExponentialUnits);
  }
  for (const auto& [numerator, denominator] : std::vector<std::pair<std::uint64_t, std::uint64_t>>{
           {0, 5}, {1, 3}, {2, 3}, {5, 2}, {40, 1}, {1, 1u << 30}})
    for (const int digits : {2, 16, 32})
      CHECK(as_double(exponential(numerator, denominator, digits)) ==
            Approx(std::exp(-static_cast<double>(numerator) / static_cast<double>(denominator)))
                .epsilon(1e-13));
  CHECK(as_double(exponential(std::uint64_t{1} << 60, 1, 2)) == 0);
}

// The first words are equal, so the comparison must draw more of them.
TEST_CASE("below_exponential: later digits decide if the first ones are equal") {
  for (std::size_t words = 1; words <= 8; ++words) {
    INFO(words << " words");
    const std::vector<std::uint64_t> same(kInverse.begin(),
                                          kInverse.begin() + static_cast<std::ptrdiff_t>(words));
    CHECK(below_inverse(same, 0));
    CHECK_FALSE(below_inverse(same, ~std::uint64_t{0}));
    for (const std::uint64_t rest : {std::uint64_t{0}, ~std::uint64_t{0}}) {
      std::vector<std::uint64_t> other = same;
      --other.back();
      CHECK(below_inverse(other, rest));
      other.back() += 2;
      CHECK_FALSE(below_inverse(other, rest));
    }
  }
}

TEST_CASE("below_exponential: compares with a rational multiple of a power of e") {
  const auto below = [](double number, std::uint64_t factor, std::uint64_t divisor) {
    ScriptedRandom source({}, 0);
    RandomBits bits(source);
    return below_exponential(static_cast<std::uint32_t>(number * 0x1p32), bits, factor, divisor, 7, 2);
  };
  const double wanted = 1000 * std::exp(-3.5) / 777;
  CHECK(below(wanted - 0x1p-31, 1000, 777));
  CHECK_FALSE(below(wanted + 0x1p-31, 1000, 777));
  CHECK(below(1 - 0x1p-31, std::uint64_t{1} << 51, 1));
}
