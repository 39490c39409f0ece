#include "federated/privacy/exponential.h"

#include <algorithm>
#include <utility>

namespace conclave {
namespace {

__extension__ using Wide = unsigned __int128;

std::uint64_t low(Wide value) { return static_cast<std::uint64_t>(value); }
std::uint64_t high(Wide value) { return static_cast<std::uint64_t>(value >> 64); }
std::size_t at(int index) { return static_cast<std::size_t>(index); }

// Adds to the last word and, as long as there is a carry, to the words before it.
void add_units(FixedPointNumber& a, Wide units) {
  for (int i = a.digits; i >= 0 && units != 0; --i) {
    const Wide sum = Wide{a.words[at(i)]} + low(units);
    a.words[at(i)] = low(sum);
    units = (units >> 64) + high(sum);
  }
}

// a + b, or a - b, which must not be negative.
void add(FixedPointNumber& a, const FixedPointNumber& b, bool subtract) {
  std::uint64_t carry = subtract;  // -b is ~b plus one unit
  for (int i = a.digits; i >= 0; --i) {
    const Wide sum = Wide{a.words[at(i)]} + (subtract ? ~b.words[at(i)] : b.words[at(i)]) + carry;
    a.words[at(i)] = low(sum), carry = high(sum);
  }
}

FixedPointNumber times(FixedPointNumber a, std::uint64_t factor) {
  std::uint64_t carry = 0;
  for (int i = a.digits; i >= 0; --i) {
    const Wide product = Wide{a.words[at(i)]} * factor + carry;
    a.words[at(i)] = low(product), carry = high(product);
  }
  return a;
}

FixedPointNumber over(FixedPointNumber a, std::uint64_t divisor) {
  Wide rest = 0;
  for (int i = 0; i <= a.digits; ++i) {
    rest = rest << 64 | a.words[at(i)];
    a.words[at(i)] = low(rest / divisor), rest %= divisor;
  }
  return a;
}

FixedPointNumber whole_number(std::uint64_t value, int digits) {
  FixedPointNumber result{.digits = digits};
  result.words[0] = value;
  return result;
}

// e^-y = 1 - y + y^2 / 2! - y^3 / 3! ..., for y from 0 to 1, which is less than one unit too small. A term
// T(k) is computed from the term before it. If e(k) is the error of T(k), e(k) <= (e(k - 1) y + T(k - 1) + 1)
// / k + 1, which is below 3. There are at most 300 terms, because 300! > 2^2048. The omitted terms add up to
// less than the first of them, which is below 4 units. All errors together are below 2^10.
FixedPointNumber alternating_series(const FixedPointNumber& y) {
  FixedPointNumber sum = whole_number(1, y.digits), term = sum;
  for (std::uint64_t k = 1;; ++k) {
    term = over(term * y, k);
    if (std::ranges::all_of(term.words, [](std::uint64_t word) { return word == 0; })) return sum;
    add(sum, term, k % 2 == 1);
  }
}

bool at_most(const FixedPointNumber& a, const FixedPointNumber& b) { return a.words <= b.words; }

}  // namespace

FixedPointNumber operator*(const FixedPointNumber& a, const FixedPointNumber& b) {
  // Columns from the right. Columns to the right of the last word count by their carry only.
  FixedPointNumber result{.digits = a.digits};
  Wide column = 0;
  for (int place = 2 * a.digits; place >= 0; --place) {
    std::uint64_t beyond = 0;  // carries out of the column
    for (int i = std::max(0, place - a.digits); i <= std::min(place, a.digits); ++i) {
      const Wide product = Wide{a.words[at(i)]} * b.words[at(place - i)];
      column += product;
      beyond += column < product;
    }
    if (place <= a.digits) result.words[at(place)] = low(column);
    column = (column >> 64) | (Wide{beyond} << 64);
  }
  return result;
}

// The product for the whole part: each multiplication adds the errors of its factors, each times the other
// factor, and one unit. That is at most 2^12 in total, because e^-1 is below a half.
FixedPointNumber exponential(std::uint64_t numerator, std::uint64_t denominator, int digits) {
  const std::uint64_t whole = numerator / denominator;
  if (whole > 64 * static_cast<std::uint64_t>(digits)) return whole_number(0, digits);  // below one unit
  FixedPointNumber result =
      alternating_series(over(whole_number(numerator % denominator, digits), denominator));
  if (whole == 0) return result;
  const FixedPointNumber inverse = alternating_series(whole_number(1, digits));
  for (std::uint64_t i = 0; i < whole; ++i) result = result * inverse;
  return result;
}

bool below_exponential(std::uint32_t first, RandomBits& bits, std::uint64_t factor, std::uint64_t divisor,
                       std::uint64_t numerator, std::uint64_t denominator) {
  FixedPointNumber uniform{.digits = 0};
  for (int digits = 2; digits <= FixedPointNumber::kMost; digits *= 2) {
    for (int i = uniform.digits + 1; i <= digits; ++i) uniform.words[at(i)] = bits.next();
    if (uniform.digits == 0) uniform.words[1] = Wide{first} << 32 | uniform.words[1] >> 32;
    uniform.digits = digits;
    // uniform <= the number < uniform + one unit
    const FixedPointNumber least = times(uniform, divisor);
    const FixedPointNumber wanted = times(exponential(numerator, denominator, digits), factor);
    const Wide apart = Wide{factor} * kExponentialUnits;
    FixedPointNumber most = least, wanted_most = wanted;
    add_units(most, apart + divisor);
    add_units(wanted_most, apart);
    if (at_most(most, wanted)) return true;
    if (at_most(wanted_most, least)) return false;
  }
  return false;
}

}  // namespace conclave
