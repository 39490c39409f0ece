#include "data/bigrams.h"

#include <algorithm>

namespace conclave {

std::vector<std::int64_t> frequent_bigrams(const TokenizedSplit& split, std::int64_t most) {
  std::vector<std::int64_t> seen;
  seen.reserve(split.tokens.size());
  for (std::int64_t s = 0; s < split.size(); ++s) {
    const auto tokens = split.sequence(s);
    for (std::size_t i = 1; i < tokens.size(); ++i) seen.push_back(bigram(tokens[i - 1], tokens[i]));
  }
  std::ranges::sort(seen);
  struct Counted {
    std::int64_t bigram, count;
  };
  std::vector<Counted> counted;
  for (const std::int64_t pair : seen) {
    if (counted.empty() || counted.back().bigram != pair) counted.push_back({pair, 0});
    ++counted.back().count;
  }
  std::ranges::stable_sort(counted, std::greater{}, &Counted::count);
  if (std::cmp_less(most, counted.size())) counted.resize(static_cast<std::size_t>(most));
  std::vector<std::int64_t> found;
  for (const Counted& one : counted) found.push_back(one.bigram);
  std::ranges::sort(found);
  return found;
}

}  // namespace conclave
