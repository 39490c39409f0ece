// Integers modulo 2^(8 width), in words of `width` bytes, as sites send them and the coordinator adds them.
//
// They are sent in blocks of 4,096 words, and within a block in planes of 4, 2 and 1 bytes (width 5: first
// four bytes of every word, then the fifth byte of every word). So adding them is a loop that vectorizes for
// any width. A mask is a stream of as many bytes as the vector has, in the same order.
#pragma once

#include <functional>
#include <variant>

#include "federated/secure_aggregation/wire.h"

namespace conclave::secure_aggregation {

inline constexpr std::size_t kBlockWords = 4096;

struct Ring {
  std::size_t width = 4;  ///< bytes of a word, 2 to 8

  /// Throws Error unless 2 <= width <= 8.
  void check() const;
  int bits() const { return static_cast<int>(8 * width); }
  /// Calls f(Word{}) with the type that words are computed with: unsigned, of 2, 4 or 8 bytes.
  template <class F>
  void with_word(F f) const {
    width <= 2 ? f(std::uint16_t{}) : width <= 4 ? f(std::uint32_t{}) : f(std::uint64_t{});
  }
  /// The largest absolute value that each of `sites` sites may contribute such that their sum never wraps
  /// around.
  std::int64_t most_each(std::size_t sites) const;
};

/// A vector of words to which others are added. Takes 2, 4 or 8 bytes of memory per word, as the width
/// requires.
class RingVector {
 public:
  /// Zeros.
  RingVector(Ring ring, std::size_t length);

  Ring ring() const { return ring_; }
  std::size_t size() const { return length_; }
  std::size_t bytes() const { return length_ * ring_.width; }  ///< packed

  /// Adds another vector, packed by pack_block(); `packed` [bytes()].
  void add(ByteView packed);
  /// The same for a vector that is not in memory: read(offset, out) fills `out` with its packed bytes from
  /// `offset` on, on any thread. If read() throws, part of the vector may have been added.
  using ReadPacked = std::function<void(std::size_t, std::span<std::byte>)>;
  void add(const ReadPacked& read);
  /// Word i, from -2^(bits - 1) to 2^(bits - 1) - 1.
  std::int64_t operator[](std::size_t i) const {
    const std::uint64_t word = std::visit([i](const auto& words) { return std::uint64_t{words[i]}; }, words_);
    const int unused = 64 - ring_.bits();
    return static_cast<std::int64_t>(word << unused) >> unused;  // extends the sign
  }

  /// Calls f(index of the first word, the words as a std::span) for groups of whole blocks; several groups
  /// are processed on all threads.
  template <class F>
  void for_each_group(F f) {
    std::visit([&](auto& words) { in_groups(std::span(words), f); }, words_);
  }
  template <class F>
  void for_each_group(F f) const {
    std::visit([&](const auto& words) { in_groups(std::span(words), f); }, words_);
  }

  /// Calls f(all words as a std::span).
  template <class F>
  void with_words(F f) const {
    std::visit([&](const auto& words) { f(std::span(words)); }, words_);
  }

 private:
  template <class Word, class F>
  static void in_groups(std::span<Word> words, F f);

  Ring ring_;
  std::size_t length_;
  std::variant<std::vector<std::uint16_t>, std::vector<std::uint32_t>, std::vector<std::uint64_t>> words_;
};

/// Adds one block's words, stored in planes, to `words`, or subtracts them; Word is the type of
/// Ring::with_word().
template <bool subtract = false, class Word>
void add_block(std::span<Word> words, std::size_t width, const std::byte* planes) {
  const std::size_t count = words.size();
  int shift = 0;
  const auto add = [&]<class Plane>(Plane) {
    Word* __restrict to = words.data();
    const std::byte* __restrict from = planes;
    for (std::size_t i = 0; i < count; ++i) {
      Plane part;
      std::memcpy(&part, from + i * sizeof part, sizeof part);
      const Word word = static_cast<Word>(static_cast<Word>(part) << shift);
      to[i] = static_cast<Word>(subtract ? to[i] - word : to[i] + word);
    }
    planes += count * sizeof(Plane);
    shift += 8 * static_cast<int>(sizeof(Plane));
  };
  if constexpr (sizeof(Word) == 8)
    if (width == 8) return add(std::uint64_t{});
  if constexpr (sizeof(Word) >= 4)
    if (width & 4) add(std::uint32_t{});
  if (width & 2) add(std::uint16_t{});
  if (width & 1) add(std::uint8_t{});
}

/// Writes one block's words as planes.
template <class Word>
void pack_block(std::span<const Word> words, std::size_t width, std::byte* planes) {
  int shift = 0;
  const auto pack = [&]<class Plane>(Plane) {
    for (std::size_t i = 0; i < words.size(); ++i) {
      const auto part = static_cast<Plane>(words[i] >> shift);
      std::memcpy(planes + i * sizeof part, &part, sizeof part);
    }
    planes += words.size() * sizeof(Plane);
    shift += 8 * static_cast<int>(sizeof(Plane));
  };
  if constexpr (sizeof(Word) == 8)
    if (width == 8) return pack(std::uint64_t{});
  if constexpr (sizeof(Word) >= 4)
    if (width & 4) pack(std::uint32_t{});
  if (width & 2) pack(std::uint16_t{});
  if (width & 1) pack(std::uint8_t{});
}

inline constexpr std::size_t kGroupWords = 16 * kBlockWords;  // up to 512 KiB: in a core's second-level cache

template <class Word, class F>
void RingVector::in_groups(std::span<Word> words, F f) {
#pragma omp parallel for schedule(dynamic) if (words.size() > kGroupWords)
  for (std::size_t first = 0; first < words.size(); first += kGroupWords)
    f(first, words.subspan(first, std::min(kGroupWords, words.size() - first)));
}

}  // namespace conclave::secure_aggregation
