// Noise for integers, drawn exactly: P(X = x) is proportional to e^(-x^2 / (2 variance)). No floating-point
// numbers are used, because their gaps would let outputs of neighbouring data sets be told apart (Mironov
// 2012).
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>

#include "federated/random_source.h"

namespace conclave {

/// The distribution of Canonne, Kamath and Steinke 2020, "The Discrete Gaussian for Differential Privacy", by
/// rejection from a table, in constant memory (10 KiB). discrete_gaussian.cpp proves that it is exact. The
/// time of a draw depends on the drawn value, so an attacker who can time single draws learns something about
/// them. For any thread, with its own `bits`.
class DiscreteGaussian {
 public:
  /// The variance is numerator / denominator. Throws Error unless both are at least 1, the numerator is at
  /// most 2^44, and the denominator is at most 2^20.
  explicit DiscreteGaussian(std::uint64_t numerator, std::uint64_t denominator = 1);

  std::int64_t draw(RandomBits& bits) const {
    for (;;) {
      const std::uint64_t word = bits.next();
      const std::uint64_t cell = slots_[word % kSlots];
      std::uint64_t magnitude = (cell << width_bits_) + (word >> kLowBits & low_mask_);
      const std::uint64_t negative = word / kSlots % 2;
      const auto uniform = static_cast<std::uint32_t>(word >> 32);
      if (uniform >= cells_[cell].least) [[unlikely]] {
        const std::optional<std::uint64_t> kept = keep(cell, magnitude, uniform, bits);
        if (!kept) continue;
        magnitude = *kept;
      }
      if (magnitude == 0 && negative == 1) continue;  // otherwise 0 would come twice as often
      return static_cast<std::int64_t>((magnitude ^ -negative) + negative);
    }
  }

 private:
  // The parts of a word, from its lowest digits: 12 choose a slot, one is the sign, as many as needed choose
  // one of a cell's numbers; the upper 32 are the first digits of a uniform number.
  static constexpr std::uint64_t kSlots = 1 << 12;
  static constexpr int kLowBits = 13;
  static constexpr std::uint64_t kMostCells = 194;

  // Bounds of the probabilities of acceptance, in 2^-32.
  struct Cell {
    std::uint32_t least = 0;        // lower bound for any of the cell's numbers
    std::uint32_t least_first = 0;  // lower bound for its first number, which is the likeliest
    std::uint64_t most_first = 0;   ///< upper bound for its first number
    std::uint64_t slots = 0;
  };

  // The accepted number; nothing if it is rejected.
  std::optional<std::uint64_t> keep(std::uint64_t cell, std::uint64_t magnitude, std::uint32_t uniform,
                                    RandomBits& bits) const;

  std::uint64_t numerator_, denominator_;
  int width_bits_ = 0;  // a cell has 2^width_bits_ numbers
  std::uint64_t low_mask_ = 0;
  std::uint64_t tail_ = 0;  // the cell of all numbers beyond the others; the next one is for unused slots
  std::uint64_t scale_ = 0;
  std::array<Cell, kMostCells + 2> cells_{};
  std::array<std::uint8_t, kSlots> slots_{};
};

}  // namespace conclave
