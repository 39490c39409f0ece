// A source of random words that a test chooses.
#pragma once

#include <algorithm>
#include <utility>
#include <vector>

#include "federated/random_source.h"

namespace conclave {

class ScriptedRandom : public RandomSource {
 public:
  /// Supplies `words`, then `rest` without end.
  explicit ScriptedRandom(std::vector<std::uint64_t> words, std::uint64_t rest = 0)
      : words_(std::move(words)), rest_(rest) {}

  void fill(std::span<std::byte> out) override {
    auto* to = reinterpret_cast<std::uint64_t*>(out.data());
    for (std::size_t i = 0; i < out.size() / 8; ++i) to[i] = next_ < words_.size() ? words_[next_++] : rest_;
  }

 private:
  std::vector<std::uint64_t> words_;
  std::uint64_t rest_;
  std::size_t next_ = 0;
};

}  // namespace conclave
