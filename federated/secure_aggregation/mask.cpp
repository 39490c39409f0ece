#include "federated/secure_aggregation/mask.h"

#include "federated/secure_aggregation/first_error.h"

namespace conclave::secure_aggregation {
namespace {

// Adds masks to a group of words. The first one is word number `first` of the vector and begins a block.
template <class Word>
void add_masks(std::span<Word> words, std::size_t first, std::size_t width, std::span<const Mask> masks) {
  alignas(64) std::array<std::byte, kBlockWords * 8> block;
  for (const Mask& mask : masks) {
    const AesStream stream(mask.seed);
    for (std::size_t at = 0; at < words.size(); at += kBlockWords) {
      const auto some = words.subspan(at, std::min(kBlockWords, words.size() - at));
      const std::size_t from = (first + at) * width / 16;
      if (sizeof(Word) == width && stream.add(from, some, mask.subtract)) continue;
      stream.fill(from, std::span(block).first(some.size() * width));
      mask.subtract ? add_block<true>(some, width, block.data()) : add_block(some, width, block.data());
    }
  }
}

template <class Word>
void mask_group(std::span<const std::int64_t> values, std::size_t first, std::size_t width,
                std::span<const Mask> masks, std::byte* out) {
  thread_local std::vector<Word> words;  // one group, in the cache
  words.assign(values.begin(), values.end());
  add_masks(std::span(words), first, width, masks);
  for (std::size_t at = 0; at < words.size(); at += kBlockWords)
    pack_block(std::span<const Word>(words).subspan(at, std::min(kBlockWords, words.size() - at)), width,
               out + at * width);
}

}  // namespace

void add_masks(RingVector& vector, std::span<const Mask> masks) {
  FirstError error;
  vector.for_each_group([&](std::size_t first, auto words) {
    error.guard([&] { add_masks(words, first, vector.ring().width, masks); });
  });
  error.rethrow();
}

Bytes masked(Ring ring, std::span<const std::int64_t> values, std::span<const Mask> masks) {
  ring.check();
  Bytes packed(values.size() * ring.width);
  FirstError error;
#pragma omp parallel for schedule(dynamic) if (values.size() > kGroupWords)
  for (std::size_t first = 0; first < values.size(); first += kGroupWords)
    error.guard([&] {
      const auto some = values.subspan(first, std::min(kGroupWords, values.size() - first));
      ring.with_word([&]<class Word>(Word) {
        mask_group<Word>(some, first, ring.width, masks, packed.data() + first * ring.width);
      });
    });
  error.rethrow();
  return packed;
}

void SeededRandom::fill(std::span<std::byte> out) {
  stream_.fill(next_, out);
  next_ += (out.size() + 15) / 16;
}

}  // namespace conclave::secure_aggregation
