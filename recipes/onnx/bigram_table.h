// Finds the number of a known pair of tokens with two look-ups. The rows of a sparse [first, second] table
// are shifted and stored on top of one another such that no two pairs share a place (Tarjan & Yao 1979,
// "Storing a sparse table").
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace conclave::onnx {

struct BigramTable {
  std::vector<std::int64_t> shift;   ///< [vocabulary]: a pair is stored at place shift[first] + second
  std::vector<std::int64_t> first;   ///< [places]: first token of the stored pair; -1 if none
  std::vector<std::int64_t> number;  ///< [places]: index of the stored pair in `known`
};
/// Builds the table of `known`, pairs encoded by bigram(), ascending, with tokens below `vocabulary`.
BigramTable bigram_table(std::span<const std::int64_t> known, std::int64_t vocabulary);

}  // namespace conclave::onnx
