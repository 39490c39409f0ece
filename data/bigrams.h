// Pairs of adjacent tokens, the features of a linear text classifier.
#pragma once

#include <cstdint>
#include <vector>

#include "data/dataset.h"

namespace conclave {

/// A pair of tokens encoded as one number. Numbers sort by the first token, then by the second.
constexpr std::int64_t bigram(std::int32_t first, std::int32_t second) {
  return (static_cast<std::int64_t>(first) << 32) | static_cast<std::uint32_t>(second);
}

/// The `most` most frequent pairs of adjacent tokens within the sequences of `split`, or all pairs if there
/// are fewer, in ascending order. Ties in frequency go to the smaller number.
std::vector<std::int64_t> frequent_bigrams(const TokenizedSplit& split, std::int64_t most);

}  // namespace conclave
