// A data set in memory: labelled texts in three splits, and the same once tokenized, packed end to end.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "core/error.h"

namespace conclave {

struct TextExample {
  std::string text;
  std::int32_t label = 0;
  bool in_domain = false;  ///< of the domain that a recipe may single out
};

struct TextDataset {
  std::vector<std::string> class_names;
  std::vector<TextExample> train, validation, test;
};

/// Token sequences packed end to end: sequence i is tokens[offsets[i], offsets[i + 1]).
struct TokenizedSplit {
  std::vector<std::int32_t> tokens;
  std::vector<std::int64_t> offsets{0};
  std::vector<std::int32_t> labels;
  std::vector<std::int32_t> in_domain;  ///< 1 for texts of the domain, else 0; or empty: none is

  std::int64_t size() const { return static_cast<std::int64_t>(labels.size()); }
  std::int64_t length(std::int64_t i) const {
    return offsets[static_cast<std::size_t>(i) + 1] - offsets[static_cast<std::size_t>(i)];
  }
  std::span<const std::int32_t> sequence(std::int64_t i) const {
    return {tokens.data() + offsets[static_cast<std::size_t>(i)], static_cast<std::size_t>(length(i))};
  }
};

}  // namespace conclave
