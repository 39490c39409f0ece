// Powers of e for decisions about noise, computed with integers, to as many binary digits as a decision
// needs.
#pragma once

#include <array>
#include <cstdint>

#include "federated/random_source.h"

namespace conclave {

/// A number from 0 to 2^64: words[0] is its whole part, and each of the `digits` words after it has 64 binary
/// digits. An operation loses at most one unit, 2^(-64 digits).
struct FixedPointNumber {
  static constexpr int kMost = 32;
  int digits = 2;
  std::array<std::uint64_t, kMost + 1> words{};
};

FixedPointNumber operator*(const FixedPointNumber& a, const FixedPointNumber& b);

/// e^-(numerator / denominator), with an error of at most kExponentialUnits units in either direction.
/// Neither argument may be above 2^62.
FixedPointNumber exponential(std::uint64_t numerator, std::uint64_t denominator, int digits);
inline constexpr std::uint64_t kExponentialUnits = 1 << 12;

/// Whether a uniform number from [0, 1) is below (factor / divisor) e^-(numerator / denominator). `first` has
/// the number's first 32 binary digits, and `bits` supplies the others. The answer is exact: as many digits
/// of both are computed as decide it. Factor and divisor are at least 1 and below 2^52. (If 2048 digits do
/// not decide, the probability of which is below 2^-1900, the answer is no.)
bool below_exponential(std::uint32_t first, RandomBits& bits, std::uint64_t factor, std::uint64_t divisor,
                       std::uint64_t numerator, std::uint64_t denominator);

}  // namespace conclave
