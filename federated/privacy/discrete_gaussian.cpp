// Why this is exact. Let s^2 be the variance, f(x) = e^(-x^2 / (2 s^2)), and w a power of two, at most s / 16
// or else 1. Cells are the numbers [c w, (c + 1) w) for c < K, where K w >= 6 s. Of 4096 equally likely slots
// cell c has n(c) >= m f(c w), for an integer m, and the tail, which is x >= K w, has one.
// 1. A slot is drawn, and of its cell c one of the w numbers, which is kept with probability m f(x) / n(c),
//    at most 1. Together: n(c) / 4096 / w m f(x) / n(c) = f(x) m / (4096 w).
// 2. In the tail, block j comes with probability 2^-(j + 1), and of it one of the K w numbers from
//    (j + 1) K w, which is kept with probability f(x) m K 2^(j + 1), at most 4096 194 2 e^-18 < 1. Together:
//    f(x) m / (4096 w), too. A block of 32 counts as rejected: f is below e^-19000 there.
// 3. Slots that are nobody's reject. So each x has a probability proportional to f(x); with a random sign, of
//    which -0 is drawn again, that is the discrete Gaussian.
// What is kept is decided by a uniform number U, whose first 32 digits come with the slot, and the rest when
// asked for. Bounds of the probability tell of nearly all U: the least of the cell's, of 95 in 100; of the
// rest, the sums of an alternating series, which are bounds in turn. Where 32 digits are too few, of some
// dozens in 2^32, below_exponential() asks for more of both. Bounds are rounded away from what they bound,
// and all are integers: by digits that have been compared, U is below the probability or not.
//
// They fit: x < 33 (6 s + w), so that x^2 denominator is below 2^60.
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

// f at the beginnings of `count` cells and of what follows them, in units of 2^-64: one more, or two less,
// than it is, at most. F(c + 1) = F(c) g(c) and g(c + 1) = g(c) g(0)^2 err by less than 2^30 of 2^-128 in 200
// steps.
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

  // As many slots as there are, less the tail's.
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
    // The last of its numbers, where that is another, is likelier than the next cell's first.
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
  // With x = c w + r, f(x) = f(c w) e^-y, where y = r (2 c w + r) / (2 s^2) is below a half. Its terms y^k /
  // k! are two units of 2^-32 too small, at most, and eight of them are looked at.
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
