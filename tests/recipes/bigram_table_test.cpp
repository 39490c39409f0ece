#include "recipes/onnx/bigram_table.h"

#include <catch2/catch.hpp>
#include <set>

#include "core/random.h"
#include "data/bigrams.h"

namespace conclave::onnx {
namespace {

// The index of a pair among the known bigrams, or -1; the same look-up as in the exported graph.
std::int64_t look_up(const BigramTable& table, std::int32_t first, std::int32_t second) {
  const auto place = static_cast<std::size_t>(table.shift[static_cast<std::size_t>(first)] + second);
  return table.first.at(place) == first ? table.number.at(place) : -1;
}

TEST_CASE("a bigram table finds exactly the bigrams it was made of") {
  constexpr std::int32_t kVocabulary = 60;
  const RandomStream random{.seed = 1};
  for (const std::size_t pairs : {0, 1, 40, 900, 3600}) {
    std::set<std::int64_t> chosen;
    for (std::uint64_t i = 0; chosen.size() < pairs; ++i)  // low token ids are more frequent
      chosen.insert(bigram(static_cast<std::int32_t>(random.below(1 + i / 7 % kVocabulary, 2 * i)),
                           static_cast<std::int32_t>(random.below(kVocabulary, 2 * i + 1))));
    const std::vector<std::int64_t> known(chosen.begin(), chosen.end());
    const BigramTable table = bigram_table(known, kVocabulary);
    for (std::int32_t first = 0; first < kVocabulary; ++first)
      for (std::int32_t second = 0; second < kVocabulary; ++second) {
        const auto found = std::ranges::find(known, bigram(first, second));
        CHECK(look_up(table, first, second) == (found == known.end() ? -1 : found - known.begin()));
      }
    CHECK(table.first.size() < 2 * pairs + 2 * kVocabulary);
  }
}

}  // namespace
}  // namespace conclave::onnx
