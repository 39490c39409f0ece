#include "data/dynamic_batcher.h"

#include <algorithm>
#include <catch2/catch.hpp>
#include <set>

#include "data/tokenizer.h"
#include "data/wordnet.h"
#include "tests/data/random_split.h"
#include "tests/data/temporary_directory.h"

using namespace conclave;
using Catch::Matchers::Contains;

namespace {

// Joins the shares of `ranks` ranks to the whole batch at `position` and checks each share.
Batch together(const TokenizedSplit& split, BatcherOptions options, DataPosition position, int ranks) {
  Batch whole;
  options.ranks = ranks;
  for (options.rank = 0; options.rank < ranks; ++options.rank) {
    DynamicBatcher batcher(split, options);
    Batch share, largest;
    batcher.fill(position, share);
    batcher.fill_largest(largest);
    CHECK(share.local_tokens() <= largest.local_tokens());
    CHECK(share.local_sequences() <= largest.local_sequences());
    CHECK(share.global_tokens <= largest.global_tokens);
    CHECK(share.global_sequences <= largest.global_sequences);
    CHECK(share.first_token == whole.local_tokens());
    CHECK(share.first_sequence == whole.local_sequences());
    CHECK(share.offsets.front() == 0);
    CHECK(share.offsets.back() == share.local_tokens());
    CHECK(share.positions.size() == share.tokens.size());
    const auto before = static_cast<std::int32_t>(whole.local_tokens());
    for (std::size_t i = 0; i < share.labels.size(); ++i)
      whole.offsets.push_back(before + share.offsets[i + 1]);
    whole.tokens.insert(whole.tokens.end(), share.tokens.begin(), share.tokens.end());
    whole.positions.insert(whole.positions.end(), share.positions.begin(), share.positions.end());
    whole.labels.insert(whole.labels.end(), share.labels.begin(), share.labels.end());
    whole.examples.insert(whole.examples.end(), share.examples.begin(), share.examples.end());
    whole.global_tokens = share.global_tokens;
    whole.global_sequences = share.global_sequences;
    whole.next = share.next;
  }
  CHECK(whole.local_tokens() == whole.global_tokens);
  CHECK(whole.local_sequences() == whole.global_sequences);
  return whole;
}

}  // namespace

TEST_CASE("the batches of an epoch hold every sequence once, within the budget", "[data]") {
  for (std::uint32_t run = 0; run < 60; ++run) {
    const RandomStream random{3, run, 0};
    const auto longest = static_cast<std::int64_t>(1 + random.below(40, 0));
    const TokenizedSplit split =
        random_split(static_cast<std::int64_t>(1 + random.below(400, 1)), longest, run);
    const BatcherOptions options{.tokens = longest + static_cast<std::int64_t>(random.below(200, 2)),
                                 .seed = run,
                                 .shuffle = run % 4 != 0};
    DynamicBatcher batcher(split, options);
    Batch batch;
    for (DataPosition at; at.epoch < 2;) {
      std::set<std::int64_t> seen;
      for (std::int64_t b = 0; b < batcher.batches_per_epoch(); ++b, at = batch.next) {
        CHECK(at.batch == b);
        batcher.fill(at, batch);
        CHECK(batch.local_sequences() > 0);
        CHECK(batch.local_tokens() <= options.tokens);
        for (std::size_t i = 0; i < batch.labels.size(); ++i) {
          const std::int64_t example = batch.examples[i];
          CHECK(seen.insert(example).second);
          const auto expected = split.sequence(example);
          REQUIRE(batch.offsets[i + 1] - batch.offsets[i] == split.length(example));
          CHECK(std::equal(expected.begin(), expected.end(), batch.tokens.begin() + batch.offsets[i]));
          CHECK(batch.positions[static_cast<std::size_t>(batch.offsets[i])] == 0);
          CHECK(batch.positions[static_cast<std::size_t>(batch.offsets[i + 1] - 1)] ==
                split.length(example) - 1);
          CHECK(batch.labels[i] == split.labels[static_cast<std::size_t>(example)]);
        }
      }
      CHECK(static_cast<std::int64_t>(seen.size()) == split.size());
    }
  }
}

TEST_CASE("the shares of all ranks together are the same batch for any number of ranks", "[data]") {
  const TokenizedSplit split = random_split(500, 30, 1);
  const BatcherOptions options{.tokens = 256, .seed = 5};
  const std::int64_t batches = DynamicBatcher(split, options).batches_per_epoch();
  for (std::int64_t b = 0; b < batches; ++b) {
    const Batch one = together(split, options, {1, b}, 1);
    for (const int ranks : {2, 4, 7}) {
      const Batch many = together(split, options, {1, b}, ranks);
      CHECK(many.tokens == one.tokens);
      CHECK(many.offsets == one.offsets);
      CHECK(many.positions == one.positions);
      CHECK(many.labels == one.labels);
      CHECK(many.examples == one.examples);
      CHECK(many.next == one.next);
    }
  }
}

TEST_CASE("an image counts as its rows and stays with its example", "[data]") {
  // Examples 0 mod 3 have no text, examples 1 mod 3 have no image, the others have both.
  TokenizedSplit split;
  split.images.shape = {2, 3, 1};
  for (std::int32_t i = 0; i < 60; ++i) {
    for (std::int32_t t = 0; t < (i % 3 == 0 ? 0 : 1 + i % 5); ++t) split.tokens.push_back(100 * i + t);
    split.offsets.push_back(static_cast<std::int64_t>(split.tokens.size()));
    split.labels.push_back(i);
    split.images.rows.push_back(i % 3 == 1 ? -1 : static_cast<std::int32_t>(split.images.size()));
    if (i % 3 != 1) split.images.pixels.insert(split.images.pixels.end(), 6, static_cast<std::uint8_t>(i));
  }
  const BatcherOptions plain{.tokens = 40, .seed = 3, .image_tokens = 4};
  for (const int ranks : {1, 2, 3}) {
    std::set<std::int64_t> seen;
    BatcherOptions options = plain;
    options.ranks = ranks;
    DynamicBatcher one(split, plain);
    for (std::int64_t b = 0; b < one.batches_per_epoch(); ++b) {
      Batch whole;
      one.fill({0, b}, whole);
      std::int64_t images = 0, rows = 0;
      for (options.rank = 0; options.rank < ranks; ++options.rank) {
        DynamicBatcher batcher(split, options);
        Batch share, largest;
        batcher.fill({0, b}, share);
        std::int64_t most_sequences = 0, most_images = 0, most_text = 0;
        for (const auto extreme : batcher.extremes()) {
          batcher.fill_largest(largest, extreme);
          CHECK(share.local_tokens() <= largest.local_tokens());
          most_sequences = std::max(most_sequences, largest.local_sequences());
          most_images = std::max(most_images, largest.local_images());
          most_text = std::max(most_text, static_cast<std::int64_t>(largest.tokens.size()));
        }
        CHECK(share.local_sequences() <= most_sequences);
        CHECK(share.local_images() <= most_images);
        CHECK(static_cast<std::int64_t>(share.tokens.size()) <= most_text);
        CHECK(share.first_token == rows);
        CHECK(share.global_images == whole.local_images());
        CHECK(share.images.size() == 6 * share.image_sequences.size());
        std::size_t image = 0;
        for (std::size_t s = 0; s < share.labels.size(); ++s) {
          const std::int64_t example = share.examples[s];
          seen.insert(example);
          CHECK(share.labels[s] == example);
          const bool has_image = example % 3 != 1;
          const std::int64_t text = split.length(example);
          CHECK(share.text_offsets[s + 1] - share.text_offsets[s] == text);
          CHECK(share.offsets[s + 1] - share.offsets[s] == text + (has_image ? 4 : 0));
          if (text > 0) CHECK(share.tokens[static_cast<std::size_t>(share.text_offsets[s])] == 100 * example);
          if (!has_image) continue;
          CHECK(share.image_sequences[image] == static_cast<std::int32_t>(s));
          CHECK(share.images[6 * image++] == example);
        }
        CHECK(share.local_images() == static_cast<std::int64_t>(image));
        images += share.local_images();
        rows += share.local_tokens();
      }
      CHECK(images == whole.local_images());
      CHECK(rows == whole.global_tokens);
      CHECK(rows <= plain.tokens);
    }
    CHECK(seen.size() == 60);
  }

  // The random changes of an image depend only on the seed, the example and the epoch.
  for (std::size_t i = 0; i < split.images.pixels.size(); ++i)
    split.images.pixels[i] = static_cast<std::uint8_t>(i);
  BatcherOptions changing = plain;
  changing.augmentation = AugmentationOptions{.padding = 1, .flip = true};
  Batch first, again, later, same;
  DynamicBatcher batcher(split, changing);
  batcher.fill({0, 0}, first);
  batcher.fill({0, 0}, again);
  CHECK(first.images == again.images);
  DynamicBatcher(split, plain).fill({0, 0}, same);
  CHECK(first.examples == same.examples);
  CHECK(first.images != same.images);
}

TEST_CASE("with more ranks than sequences, empty shares are valid", "[data]") {
  const TokenizedSplit split = random_split(3, 30, 2);
  const Batch whole = together(split, {.tokens = 30}, {0, 0}, 16);
  CHECK(whole.global_sequences >= 1);
}

TEST_CASE("a batcher started in the middle gives the same batches as one from the start", "[data]") {
  const TokenizedSplit split = random_split(300, 20, 3);
  const BatcherOptions options{.tokens = 128, .seed = 9, .rank = 1, .ranks = 2};
  DynamicBatcher straight(split, options);
  Batch a, b;
  for (DataPosition at; at.epoch < 3; at = a.next) {
    straight.fill(at, a);
    DynamicBatcher(split, options).fill(at, b);
    CHECK(a.tokens == b.tokens);
    CHECK(a.examples == b.examples);
    CHECK(a.next == b.next);
  }
}

TEST_CASE("epochs and seeds change the order only with shuffling", "[data]") {
  const TokenizedSplit split = random_split(300, 20, 4);
  const auto examples = [&](BatcherOptions options, std::int64_t epoch) {
    Batch batch;
    DynamicBatcher(split, options).fill({epoch, 0}, batch);
    return batch.examples;
  };
  CHECK(examples({.tokens = 128, .seed = 1}, 0) != examples({.tokens = 128, .seed = 1}, 1));
  CHECK(examples({.tokens = 128, .seed = 1}, 0) != examples({.tokens = 128, .seed = 2}, 0));
  CHECK(examples({.tokens = 128, .shuffle = false}, 0) == examples({.tokens = 128, .shuffle = false}, 1));
}

TEST_CASE("the position after the last batch is the next epoch's first", "[data]") {
  const TokenizedSplit split = random_split(100, 20, 5);
  DynamicBatcher batcher(split, {.tokens = 128});
  Batch a, b;
  batcher.fill({0, batcher.batches_per_epoch()}, a);
  batcher.fill({1, 0}, b);
  CHECK(a.examples == b.examples);
  CHECK(a.next == b.next);
  batcher.fill({0, batcher.batches_per_epoch() - 1}, a);
  CHECK(a.next == DataPosition{1, 0});
}

TEST_CASE("a refilled batch keeps its buffers", "[data]") {
  const TokenizedSplit split = random_split(400, 30, 6);
  DynamicBatcher batcher(split, {.tokens = 256});
  Batch batch;
  batcher.fill({0, 0}, batch);
  const auto* tokens = batch.tokens.data();
  const auto* labels = batch.labels.data();
  for (DataPosition at = batch.next; at.epoch < 4; at = batch.next) {
    batcher.fill(at, batch);
    CHECK(batch.tokens.data() == tokens);
    CHECK(batch.labels.data() == labels);
  }
  batcher.fill_largest(batch);
  CHECK(batch.tokens.data() == tokens);
  CHECK(batch.labels.data() == labels);
}

TEST_CASE("WordNet's nouns are batched with at most 3% padding", "[data][unsanitized]") {
  const auto texts = read_wordnet(kWordNetDirectory, "noun").train;
  const auto some = std::span(texts).first(4000);  // training a tokenizer on all texts takes long
  const TokenizedSplit split = Tokenizer::train(some, 2000, "").encode_split(texts, 128);
  const DynamicBatcher batcher(split, {.tokens = 8192, .seed = 1});
  CHECK(batcher.padding() <= 0.03);
  CHECK(static_cast<double>(split.tokens.size()) / static_cast<double>(batcher.batches_per_epoch()) >
        0.97 * 8192);
}

TEST_CASE("impossible batches are refused with what to change", "[data]") {
  const TokenizedSplit split = random_split(50, 20, 7);
  CHECK_THAT(error_of([&] { DynamicBatcher(split, {.tokens = 19}); }), Contains("budget of 19"));
  CHECK_THROWS_AS(DynamicBatcher(split, {.tokens = 0}), Error);
  CHECK_THROWS_AS(DynamicBatcher(split, {.rank = 2, .ranks = 2}), Error);
  DynamicBatcher batcher(split, {.tokens = 64});
  Batch batch;
  CHECK_THAT(error_of([&] { batcher.fill({0, 1000}, batch); }), Contains("batch 1000 does not exist"));
  CHECK_THROWS_AS(batcher.fill({-1, 0}, batch), Error);
  TokenizedSplit hollow = split;
  hollow.offsets.push_back(hollow.offsets.back());
  hollow.labels.push_back(0);
  CHECK_THAT(error_of([&] { DynamicBatcher(hollow, {.tokens = 64}); }),
             Contains("sequence 50 has no tokens"));

  const TokenizedSplit none;
  DynamicBatcher empty(none, {});
  CHECK(empty.batches_per_epoch() == 0);
  CHECK(empty.padding() == 0);
  empty.fill_largest(batch);
  CHECK(batch.local_sequences() == 0);
  CHECK_THROWS_AS(empty.fill({0, 0}, batch), Error);
}

TEST_CASE("a share can be filled with given sequences, within the planned size", "[data]") {
  const TokenizedSplit split = random_split(200, 20, 4);
  const DynamicBatcher batcher(split, {.tokens = 100, .rank = 1, .ranks = 2});
  Batch largest, batch;
  batcher.fill_largest(largest);
  std::vector<std::int64_t> drawn;
  for (std::int64_t i = 0; i < 200; i += 3) drawn.push_back(i);
  std::vector<std::int64_t> seen;
  for (std::span<const std::int64_t> rest(drawn); !rest.empty();) {
    const std::size_t count = batcher.fill_with(rest, 0, 0, batch);
    REQUIRE(count > 0);
    CHECK(batch.local_tokens() <= largest.local_tokens());
    CHECK(batch.local_sequences() <= largest.local_sequences());
    CHECK(batch.global_tokens == batch.local_tokens());
    CHECK(batch.examples.size() == count);
    seen.insert(seen.end(), batch.examples.begin(), batch.examples.end());
    rest = rest.subspan(count);
  }
  CHECK(seen == drawn);
  CHECK(batcher.fill_with({}, 0, 0, batch) == 0);
  CHECK(batch.offsets == std::vector<std::int32_t>{0});
}
