#include "data/bigrams.h"

#include <catch2/catch.hpp>
#include <map>

#include "tests/data/random_split.h"

namespace conclave {
namespace {

TokenizedSplit split_of(const std::vector<std::vector<std::int32_t>>& sequences) {
  TokenizedSplit split;
  for (const auto& sequence : sequences) {
    split.tokens.insert(split.tokens.end(), sequence.begin(), sequence.end());
    split.offsets.push_back(static_cast<std::int64_t>(split.tokens.size()));
    split.labels.push_back(0);
  }
  return split;
}

TEST_CASE("frequent bigrams are in ascending order and never span two sequences", "[data]") {
  const auto split = split_of({{5, 1, 2, 5}, {}, {1}, {1, 2}, {2, 5, 1}, {5, 1}});
  //                            pairs: 5 1 (3), 1 2 (2), 2 5 (2)
  CHECK(frequent_bigrams(split, 100) == std::vector{bigram(1, 2), bigram(2, 5), bigram(5, 1)});
  CHECK(frequent_bigrams(split, 1) == std::vector{bigram(5, 1)});
  CHECK(frequent_bigrams(split, 2) == std::vector{bigram(1, 2), bigram(5, 1)});  // ties: the smaller bigram
  CHECK(frequent_bigrams(split, 0).empty());
  CHECK(frequent_bigrams(split_of({}), 10).empty());
  CHECK(frequent_bigrams(split_of({{3}}), 10).empty());
}

TEST_CASE("no omitted bigram is more frequent than a chosen one", "[data]") {
  const TokenizedSplit split = random_split(300, 40, 5);
  std::map<std::int64_t, int> counts;
  for (std::int64_t s = 0; s < split.size(); ++s)
    for (std::size_t i = 1; i < split.sequence(s).size(); ++i)
      ++counts[bigram(split.sequence(s)[i - 1], split.sequence(s)[i])];
  const auto taken = frequent_bigrams(split, 50);
  CHECK(taken.size() == 50);
  CHECK(std::ranges::is_sorted(taken));
  int least = 1 << 30;
  for (const std::int64_t pair : taken) {
    REQUIRE(counts.contains(pair));
    least = std::min(least, counts[pair]);
    counts.erase(pair);
  }
  for (const auto& [pair, count] : counts) CHECK(count <= least);
}

}  // namespace
}  // namespace conclave
