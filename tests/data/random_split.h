// Made-up tokenized sequences for tests: lengths in [1, longest], at least one of them `longest`.
#pragma once

#include "core/random.h"
#include "data/dataset.h"

namespace conclave {

inline TokenizedSplit random_split(std::int64_t sequences, std::int64_t longest, std::uint64_t seed) {
  const RandomStream lengths{seed, 0, 100}, ids{seed, 0, 101};
  TokenizedSplit split;
  for (std::int64_t i = 0; i < sequences; ++i) {
    const auto drawn = lengths.below(static_cast<std::uint64_t>(longest), static_cast<std::uint64_t>(i));
    const std::int64_t length = i == 0 ? longest : 1 + static_cast<std::int64_t>(drawn);
    for (std::int64_t t = 0; t < length; ++t)
      split.tokens.push_back(static_cast<std::int32_t>(ids.below(1000, split.tokens.size())));
    split.offsets.push_back(static_cast<std::int64_t>(split.tokens.size()));
    split.labels.push_back(static_cast<std::int32_t>(i % 7));
  }
  return split;
}

}  // namespace conclave
