#include "federated/random_source.h"

#include <catch2/catch.hpp>
#include <deque>
#include <limits>
#include <vector>

namespace {

// Supplies the given words cyclically.
class Scripted : public conclave::RandomSource {
 public:
  explicit Scripted(std::vector<std::uint64_t> words) : words_(std::move(words)) {}
  void fill(std::span<std::byte> out) override {
    auto* words = reinterpret_cast<std::uint64_t*>(out.data());
    for (std::size_t i = 0; i < out.size() / 8; ++i) words[i] = words_[next_++ % words_.size()];
  }

 private:
  std::vector<std::uint64_t> words_;
  std::size_t next_ = 0;
};

}  // namespace

TEST_CASE("the system's randomness fills every byte") {
  conclave::SystemRandom system;
  std::vector<std::byte> bytes(1 << 16);
  system.fill(bytes);
  std::vector<int> counts(256);
  for (const std::byte byte : bytes) ++counts[static_cast<std::size_t>(byte)];
  // Each value is expected 256 times, with a standard deviation of 16. Ten deviations do not occur by chance.
  for (const int count : counts) CHECK(std::abs(count - 256) < 160);
}

TEST_CASE("RandomBits: words come once, in the source's order") {
  std::vector<std::uint64_t> words(1000);
  for (std::size_t i = 0; i < words.size(); ++i) words[i] = i;
  Scripted source(words);
  conclave::RandomBits bits(source);
  for (std::uint64_t i = 0; i < 1000; ++i) REQUIRE(bits.next() == i);
}

TEST_CASE("RandomBits: numbers below a bound are exactly uniform") {
  constexpr std::uint64_t kMost = std::numeric_limits<std::uint64_t>::max();
  // 2^64 = 3 * k + 1, so one value must be rejected: 0.
  Scripted source({0, 1, 2, 3, kMost});
  conclave::RandomBits bits(source);
  CHECK(bits.below(3) == 1);
  CHECK(bits.below(3) == 2);
  CHECK(bits.below(3) == 0);
  CHECK(bits.below(3) == kMost % 3);
  CHECK(bits.below(1) == 0);
}
