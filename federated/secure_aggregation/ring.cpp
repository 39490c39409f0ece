#include "federated/secure_aggregation/ring.h"

#include <limits>

#include "federated/secure_aggregation/first_error.h"

namespace conclave::secure_aggregation {

void Ring::check() const {
  require(width >= 2 && width <= 8, "secure aggregation: words of {} bytes; there are those of 2 to 8",
          width);
}

std::int64_t Ring::most_each(std::size_t sites) const {
  check();
  const std::int64_t most = std::numeric_limits<std::int64_t>::max() >> (64 - bits());
  return most / static_cast<std::int64_t>(sites);
}

RingVector::RingVector(Ring ring, std::size_t length) : ring_(ring), length_(length) {
  ring_.check();
  ring_.with_word([&]<class Word>(Word) { words_ = std::vector<Word>(length); });
}

namespace {

template <class Word>
void add_blocks(std::span<Word> words, std::size_t width, const std::byte* packed) {
  for (std::size_t at = 0; at < words.size(); at += kBlockWords)
    add_block(words.subspan(at, std::min(kBlockWords, words.size() - at)), width, packed + at * width);
}

}  // namespace

void RingVector::add(ByteView packed) {
  require(packed.size() == bytes(),
          "secure aggregation: a vector of {} bytes, expected {}: {} words of {} bytes", packed.size(),
          bytes(), length_, ring_.width);
  for_each_group([&](std::size_t first, auto words) {
    add_blocks(words, ring_.width, packed.data() + first * ring_.width);
  });
}

void RingVector::add(const ReadPacked& read) {
  FirstError error;
  for_each_group([&](std::size_t first, auto words) {
    error.guard([&] {
      Bytes packed(words.size() * ring_.width);
      read(first * ring_.width, packed);
      add_blocks(words, ring_.width, packed.data());
    });
  });
  error.rethrow();
}

}  // namespace conclave::secure_aggregation
