// Proof that draws are exact. Let s^2 be the variance, f(x) = e^(-x^2 / (2 s^2)), and w a power of two: the
// largest one that is at most s / 16, or else 1. Cell c, for c < K, is the numbers [c w, (c + 1) w), where
// K w >= 6 s. There are 4096 slots, which are equally likely. Cell c has n(c) >= m f(c w) of them, for an
// integer m, and the tail, x >= K w, has one.
// 1. Draw a slot and then one of the w numbers of its cell c. Accept the number x with probability
//    m f(x) / n(c), which is at most 1. The total probability of x is
//    n(c) / 4096 / w * m f(x) / n(c) = f(x) m / (4096 w).
// 2. In the tail, choose block j with probability 2^-(j + 1), and one of the K w numbers from (j + 1) K w on.
//    Accept it with probability f(x) m K 2^(j + 1), which is at most 4096 194 2 e^-18 < 1. The total
//    probability is f(x) m / (4096 w), too. Block 32 and those after it are rejected: f is below e^-19000
//    there.
// 3. Slots without a cell reject. So the probability of each x is proportional to f(x). With a random sign,
//    where -0 is drawn again, this is the discrete Gaussian.
//
// Acceptance is decided by a uniform number U. Its first 32 digits come with the slot, and further ones are
// drawn when they are needed. Bounds of the probability decide for nearly all U. First comes the cell's lower
// bound, which accepts 95 of 100. For the rest, the partial sums of an alternating series are bounds. In some
// dozens of 2^32 cases, 32 digits are not enough, and below_exponential() computes more of both. Bounds are
// rounded away from the probability, and all are integers. So the digits that were compared prove that U is
// below the probability, or that it is not.
//
// The integers do not overflow: x < 33 (6 s + w), so x^2 denominator is below 2^60.
#include "federated/privacy/discrete_gaussian.h"

#include <algorithm>
#include <array>
#include <bit>

#include "core/error.h"
#include "federated/privacy/exponential.h"

namespace conclave {
namespace {

__extension__ using Wide = unsigned __int128;

constexpr int kFirstDigits = 32;
constexpr std::uint64_t kOne = std::uint64_t{1} << kFirstDigits;
constexpr int kTailBlocks = 32;
constexpr Wide kWord = Wide{1} << 64;

// f at the beginnings of `count` cells and of the tail, in units of 2^-64. A value is at most one unit too
// large and at most two too small: F(c + 1) = F(c) g(c) and g(c + 1) = g(c) g(0)^2 have an error of less than
// 2^30 units of 2^-128 after 200 steps.
std::array<Wide, 256> at_beginnings(std::uint64_t width_squared, std::uint64_t divisor, std::uint64_t count) {
  FixedPointNumber value = exponential(0, 1, 2), ratio = exponential(width_squared, divisor, 2);
  const FixedPointNumber change = ratio * ratio;
  std::array<Wide, 256> values;
  for (std::uint64_t cell = 0; cell <= count; ++cell) {
    values[cell] = Wide{value.words[0]} << 64 | value.words[1];
    value = value * ratio;
    ratio = ratio * change;
  }
  return values;
}

// n(c), at least m f(c w)
std::uint64_t slots_of(Wide value, std::uint64_t scale) {
  return static_cast<std::uint64_t>(((value + 2) * scale + kWord - 1) / kWord);
}

}  // namespace

DiscreteGaussian::DiscreteGaussian(std::uint64_t numerator, std::uint64_t denominator)
    : numerator_(numerator), denominator_(denominator) {
  constexpr std::uint64_t kMostNumerator = std::uint64_t{1} << 44, kMostDenominator = std::uint64_t{1} << 20;
  require(
      numerator >= 1 && numerator <= kMostNumerator && denominator >= 1 && denominator <= kMostDenominator,
      "discrete Gaussian: a variance of {} / {}; the numerator is 1 to {}, the denominator 1 to {}",
      numerator, denominator, kMostNumerator, kMostDenominator);
  while ((Wide{16 * 16 * 4} << (2 * width_bits_)) * denominator <= numerator) ++width_bits_;
  low_mask_ = (std::uint64_t{1} << width_bits_) - 1;
  const std::uint64_t width_squared = (std::uint64_t{1} << (2 * width_bits_)) * denominator;
  while (Wide{tail_ * tail_} * width_squared < Wide{36} * numerator) ++tail_;
  const std::array<Wide, 256> values = at_beginnings(width_squared, 2 * numerator, tail_);

  // The largest scale m for which the cells' slots and the tail's fit.
  const auto taken = [&](std::uint64_t scale) {
    std::uint64_t sum = 1;
    for (std::uint64_t cell = 0; cell < tail_; ++cell) sum += slots_of(values[cell], scale);
    return sum;
  };
  for (std::uint64_t bit = kSlots / 2; bit > 0; bit /= 2)
    if (taken(scale_ + bit) <= kSlots) scale_ += bit;

  const auto least = [&](Wide value, std::uint64_t slots) {
    return static_cast<std::uint32_t>((value - std::min<Wide>(value, 1)) * scale_ / slots >> kFirstDigits);
  };
  const auto most = [&](Wide value, Wide factor, std::uint64_t slots) {
    return static_cast<std::uint64_t>((value + 2) * factor / slots >> kFirstDigits) + 1;
  };
  std::uint8_t* slot = slots_.data();
  for (std::uint64_t cell = 0; cell < tail_; ++cell) {
    const std::uint64_t slots = slots_of(values[cell], scale_);
    const std::uint32_t first = least(values[cell], slots);
    // If a cell has more than one number, its last one is likelier than the first one of the next cell.
    cells_[cell] = {width_bits_ > 0 ? least(values[cell + 1], slots) : first, first,
                    most(values[cell], scale_, slots), slots};
    slot = std::fill_n(slot, slots, static_cast<std::uint8_t>(cell));
  }
  cells_[tail_].most_first = most(values[tail_], Wide{2 * tail_} * scale_, 1);
  *slot++ = static_cast<std::uint8_t>(tail_);
  std::fill(slot, slots_.data() + kSlots, static_cast<std::uint8_t>(tail_ + 1));
}

std::optional<std::uint64_t> DiscreteGaussian::keep(std::uint64_t cell, std::uint64_t magnitude,
                                                    std::uint32_t uniform, RandomBits& bits) const {
  const auto [any, least, most, slots] = cells_[cell];
  if (uniform >= most) return std::nullopt;
  if (cell == tail_) {
    const int block = std::countr_zero(bits.next());
    if (block >= kTailBlocks) return std::nullopt;
    const std::uint64_t size = tail_ << width_bits_;
    magnitude = size * static_cast<std::uint64_t>(block + 1) + bits.below(size);
    if (below_exponential(uniform, bits, (scale_ * tail_) << (block + 1), 1,
                          magnitude * magnitude * denominator_, 2 * numerator_))
      return magnitude;
    return std::nullopt;
  }
  // With x = c w + r, f(x) = f(c w) e^-y, where y = r (2 c w + r) / (2 s^2) is below a half. The terms y^k /
  // k! are at most two units of 2^-32 too small, and eight of them are computed.
  const std::uint64_t rest = magnitude & low_mask_;
  const auto y = static_cast<std::uint64_t>(
      (Wide{rest * (2 * magnitude - rest) * denominator_} << kFirstDigits) / (2 * numerator_));
  constexpr std::uint64_t kUnits = 16;
  std::uint64_t sum = kOne, term = kOne;
  for (std::uint64_t k = 1; k <= 8; ++k) {
    term = term * y / (k << kFirstDigits);
    if (k % 2 == 1) {
      sum -= term;
      if (uniform < (least * (sum - kUnits)) >> kFirstDigits) return magnitude;
    } else {
      sum += term;
      if (uniform > (Wide{most} * (sum + kUnits)) >> kFirstDigits) return std::nullopt;
    }
  }
  if (below_exponential(uniform, bits, scale_, slots, magnitude * magnitude * denominator_, 2 * numerator_))
    return magnitude;
  return std::nullopt;
}

}  // namespace conclave
