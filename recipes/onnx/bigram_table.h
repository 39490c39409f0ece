// Which of some known pairs of tokens a pair is, by two look-ups: the rows of a sparse table of first and
// second tokens, laid over one another so that no two pairs meet (Tarjan & Yao 1979, "Storing a sparse
// table").
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace conclave::onnx {

struct BigramTable {
  std::vector<std::int64_t> shift;   ///< [vocabulary]: a pair's place is shift[first] + second
  std::vector<std::int64_t> first;   ///< [places]: the first token of the pair that is there; -1 for none
  std::vector<std::int64_t> number;  ///< [places]: its number among the known
};
/// `known` as bigram() makes them, ascending, of tokens below `vocabulary`.
BigramTable bigram_table(std::span<const std::int64_t> known, std::int64_t vocabulary);

}  // namespace conclave::onnx
