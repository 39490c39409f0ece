// Pairs of adjacent tokens, the features of a linear text classifier.
#pragma once

#include <cstdint>
#include <vector>

#include "data/dataset.h"

namespace conclave {

/// A pair of tokens as one number, ordered by the first and then the second.
constexpr std::int64_t bigram(std::int32_t first, std::int32_t second) {
  return (static_cast<std::int64_t>(first) << 32) | static_cast<std::uint32_t>(second);
}

/// The pairs that stand side by side most often within a sequence of `split`, at most `most` of them,
/// ascending. Of those seen equally often the smaller number goes first.
std::vector<std::int64_t> frequent_bigrams(const TokenizedSplit& split, std::int64_t most);

}  // namespace conclave
