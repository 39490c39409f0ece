#include "recipes/onnx/bigram_table.h"

#include <algorithm>
#include <numeric>

namespace conclave::onnx {

// First fit: rows with most pairs first, each at the smallest shift that leaves all of its places free.
BigramTable bigram_table(std::span<const std::int64_t> known, std::int64_t vocabulary) {
  const auto second = [&](std::size_t pair) { return known[pair] & 0xffffffff; };
  std::vector<std::size_t> begin(static_cast<std::size_t>(vocabulary) + 1);
  for (const std::int64_t pair : known) ++begin[static_cast<std::size_t>(pair >> 32) + 1];
  std::partial_sum(begin.begin(), begin.end(), begin.begin());
  const auto pairs = [&](std::size_t row) { return begin[row + 1] - begin[row]; };
  std::vector<std::size_t> order(static_cast<std::size_t>(vocabulary));
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::ranges::stable_sort(order, std::ranges::greater(), pairs);

  BigramTable table{std::vector<std::int64_t>(static_cast<std::size_t>(vocabulary)), {}, {}};
  std::int64_t free = 0;  // all places before this one are taken
  for (const std::size_t row : order) {
    if (pairs(row) == 0) break;
    const auto taken = [&](std::int64_t place) {
      return place < std::ssize(table.first) && table.first[static_cast<std::size_t>(place)] >= 0;
    };
    while (taken(free)) ++free;
    std::int64_t shift = std::max<std::int64_t>(free - second(begin[row]), 0);
    const auto meets = [&] {
      for (std::size_t pair = begin[row]; pair < begin[row + 1]; ++pair)
        if (taken(shift + second(pair))) return true;
      return false;
    };
    while (meets()) ++shift;
    table.shift[row] = shift;
    for (std::size_t pair = begin[row]; pair < begin[row + 1]; ++pair) {
      const auto place = static_cast<std::size_t>(shift + second(pair));
      if (place >= table.first.size()) {
        table.first.resize(place + 1, -1);
        table.number.resize(place + 1, 0);
      }
      table.first[place] = static_cast<std::int64_t>(row);
      table.number[place] = static_cast<std::int64_t>(pair);
    }
  }
  // Extend the arrays so that the place of any pair of tokens, known or not, is in range.
  const std::int64_t furthest = *std::ranges::max_element(table.shift) + vocabulary;
  table.first.resize(static_cast<std::size_t>(furthest), -1);
  table.number.resize(static_cast<std::size_t>(furthest), 0);
  return table;
}

}  // namespace conclave::onnx
