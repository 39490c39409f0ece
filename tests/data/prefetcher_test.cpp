#include "data/prefetcher.h"

#include <catch2/catch.hpp>

#include "tests/data/random_split.h"
#include "tests/data/temporary_directory.h"

using namespace conclave;

namespace {

const BatcherOptions kOptions{.tokens = 128, .seed = 4, .rank = 0, .ranks = 2};

void check_equal(const Batch& a, const Batch& b) {
  CHECK(a.tokens == b.tokens);
  CHECK(a.offsets == b.offsets);
  CHECK(a.labels == b.labels);
  CHECK(a.examples == b.examples);
  CHECK(a.first_token == b.first_token);
  CHECK(a.next == b.next);
}

}  // namespace

TEST_CASE("a prefetcher gives the batcher's batches, each valid until the next", "[data]") {
  const TokenizedSplit split = random_split(200, 20, 11);
  DynamicBatcher batcher(split, kOptions);
  Prefetcher prefetcher(batcher, {0, 3});
  Batch expected;
  for (DataPosition at{0, 3}; at.epoch < 4; at = expected.next) {
    CHECK(prefetcher.position() == at);
    batcher.fill(at, expected);
    check_equal(prefetcher.next(), expected);
    CHECK(prefetcher.position() == expected.next);
  }
}

TEST_CASE("a prefetcher continues at any position after seek", "[data]") {
  const TokenizedSplit split = random_split(200, 20, 12);
  DynamicBatcher batcher(split, kOptions);
  Prefetcher prefetcher(batcher);
  Batch expected;
  const RandomStream random{1, 1, 1};
  for (std::uint64_t run = 0; run < 200; ++run) {
    const DataPosition at{static_cast<std::int64_t>(random.below(3, 2 * run)),
                          static_cast<std::int64_t>(random.below(
                              static_cast<std::uint64_t>(batcher.batches_per_epoch()), 2 * run + 1))};
    prefetcher.seek(at);
    if (run % 3 == 0) prefetcher.seek(at);
    CHECK(prefetcher.position() == at);
    batcher.fill(at, expected);
    check_equal(prefetcher.next(), expected);
    if (run % 2 == 0) {
      batcher.fill(expected.next, expected);
      check_equal(prefetcher.next(), expected);
    }
  }
}

TEST_CASE("an error in the prefetcher's thread is thrown by next until a seek", "[data]") {
  const TokenizedSplit split = random_split(50, 20, 13);
  Prefetcher prefetcher(DynamicBatcher(split, kOptions), {0, 1000});
  CHECK_THROWS_AS(prefetcher.next(), Error);
  CHECK_THROWS_AS(prefetcher.next(), Error);
  prefetcher.seek({0, 0});
  CHECK(prefetcher.next().global_sequences > 0);
}

TEST_CASE("a prefetcher may be destroyed at any moment", "[data]") {
  const TokenizedSplit split = random_split(200, 20, 14);
  for (int run = 0; run < 100; ++run) {
    Prefetcher prefetcher(DynamicBatcher(split, kOptions));
    for (int i = 0; i < run % 4; ++i) prefetcher.next();
  }
}
