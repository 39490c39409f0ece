// Why this is exact. Let s^2 be the variance and t the scale, any integer from 1.
// 1. coin(a, b) compares a uniform real number, 16 binary digits at a time, with a / b, until a digit
// differs.
// 2. For g in [0, 1], coins of probability g / 1, g / 2, g / 3 ... are thrown until the k-th is the first to
// be
//    0. P(k > j) = g^j / j!, so that P(k odd) = sum over j of (-g)^j / j! = e^-g. For larger g, e^-1 as often
//    as g has whole ones, and e^-(the rest), must all come.
// 3. u uniform below t, kept with probability e^-(u / t), and v with P(v >= j) = e^-j: y = u + t v has P(y)
//    proportional to e^-(y / t). With a random sign, of which -0 is drawn again, that is Laplace's.
// 4. Keeping y with probability e^-((|y| - s^2 / t)^2 / (2 s^2)) gives P(y) proportional to
//    e^-(|y| / t + y^2 / (2 s^2) - |y| / t + s^2 / (2 t^2)), that is to e^-(y^2 / (2 s^2)).
// Rejections start again, and so only divide by what is the same for all. We take for t the power of two next
// to s: then u is some random bits, and two of three draws and more are kept. Numbers are fractions of
// integers below 2^127: with numerator <= 2^44, denominator <= 2^20 and v < 2^11, |y| denominator t is below
// 2^57. A v of 2^11 counts as rejected; in step 4 that has a probability below e^-1000000, and in step 3
// e^-2048.
#include "federated/privacy/discrete_gaussian.h"

#include <openssl/crypto.h>

#include "core/error.h"

namespace conclave {

DiscreteGaussian::DiscreteGaussian(RandomBits& bits, std::uint64_t numerator, std::uint64_t denominator)
    : bits_(bits), numerator_(numerator), denominator_(denominator) {
  constexpr std::uint64_t kMostNumerator = std::uint64_t{1} << 44, kMostDenominator = std::uint64_t{1} << 20;
  require(
      numerator >= 1 && numerator <= kMostNumerator && denominator >= 1 && denominator <= kMostDenominator,
      "discrete Gaussian: a variance of {} / {}; the numerator is 1 to {}, the denominator 1 to {}",
      numerator, denominator, kMostNumerator, kMostDenominator);
  // t^2 <= 2 s^2 < 4 t^2
  while ((Wide{4} << (2 * scale_bits_)) * denominator <= Wide{2} * numerator) ++scale_bits_;
  divisor_ = (Wide{2} * numerator * denominator) << (2 * scale_bits_);
}

DiscreteGaussian::~DiscreteGaussian() { OPENSSL_cleanse(&word_, sizeof word_); }

std::uint64_t DiscreteGaussian::take(int count) {
  if (left_ < count) {
    word_ = bits_.next();
    left_ = 64;
  }
  const std::uint64_t taken = word_ & ((std::uint64_t{1} << count) - 1);
  word_ >>= count;
  left_ -= count;
  return taken;
}

bool DiscreteGaussian::coin(Wide numerator, Wide denominator) {
  for (;;) {
    // digit / 2^16 <= the uniform number < (digit + 1) / 2^16
    const Wide low = denominator * take(16), wanted = numerator << 16;
    if (low >= wanted) return false;
    if (low + denominator <= wanted) return true;
    numerator = wanted - low;
  }
}

bool DiscreteGaussian::exponential_coin() {
  unsigned k = 2;  // the first coin's probability is 1
  while (coin(1, k)) ++k;
  return k % 2 == 1;
}

bool DiscreteGaussian::exponential_coin(Wide numerator, Wide denominator) {
  const Wide rest = numerator % denominator;
  for (Wide whole = numerator / denominator; whole > 0; --whole)
    if (!exponential_coin()) return false;
  unsigned k = 1;
  while (coin(rest, denominator) && (k == 1 || coin(1, k))) ++k;
  return k % 2 == 1;
}

std::int64_t DiscreteGaussian::next() {
  for (;;) {
    const std::uint64_t rest = take(scale_bits_);
    if (!exponential_coin(rest, Wide{1} << scale_bits_)) continue;
    std::uint64_t whole = 0;
    while (whole < 2048 && exponential_coin()) ++whole;
    const std::uint64_t magnitude = rest + (whole << scale_bits_);
    const bool negative = take(1) == 1;
    if (whole == 2048 || (negative && magnitude == 0)) continue;
    const Wide scaled = (Wide{magnitude} * denominator_) << scale_bits_;
    const Wide apart = scaled > numerator_ ? scaled - numerator_ : numerator_ - scaled;
    if (exponential_coin(apart * apart, divisor_))
      return negative ? -static_cast<std::int64_t>(magnitude) : static_cast<std::int64_t>(magnitude);
  }
}

}  // namespace conclave
