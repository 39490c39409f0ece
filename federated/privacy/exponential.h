// The powers of e that decide about noise, to as many binary digits as it takes: integers only.
#pragma once

#include <array>
#include <cstdint>

#include "federated/random_source.h"

namespace conclave {

/// A number from 0 to 2^64: words[0] is its whole part, and the `digits` words behind it have 64 binary
/// digits each. What operations cut off is a unit, 2^(-64 digits), at most.
struct FixedPointNumber {
  static constexpr int kMost = 32;
  int digits = 2;
  std::array<std::uint64_t, kMost + 1> words{};
};

FixedPointNumber operator*(const FixedPointNumber& a, const FixedPointNumber& b);

/// e^-(numerator / denominator), kExponentialUnits units too much or too little at most. Neither of the two
/// is above 2^62.
FixedPointNumber exponential(std::uint64_t numerator, std::uint64_t denominator, int digits);
inline constexpr std::uint64_t kExponentialUnits = 1 << 12;

/// Whether a uniform number from [0, 1), of which the first 32 binary digits are `first` and `bits` has the
/// others, is below (factor / divisor) e^-(numerator / denominator): exactly, from as many digits of both as
/// tell. Factor and divisor are at least 1 and below 2^52. (If 2048 do not, of which the probability is below
/// 2^-1900, the answer is no.)
bool below_exponential(std::uint32_t first, RandomBits& bits, std::uint64_t factor, std::uint64_t divisor,
                       std::uint64_t numerator, std::uint64_t denominator);

}  // namespace conclave
