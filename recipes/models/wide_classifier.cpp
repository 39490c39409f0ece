#include "recipes/models/wide_classifier.h"

#include <algorithm>
#include <limits>

#include "data/bigrams.h"

namespace conclave {
namespace {

constexpr std::int64_t kNone = std::numeric_limits<std::int64_t>::max();  // no pair of tokens has this number

}  // namespace

WideClassifier::WideClassifier(Index vocabulary, Index bigrams, Index classes)
    : vocabulary_(vocabulary),
      bigrams_(Tensor::empty({bigrams}, DType::i64)),
      weight_(add_parameter("weight", {vocabulary + bigrams + 1, classes}, Initializer::constant(0))) {
  std::ranges::fill(bigrams_.span<std::int64_t>(), kNone);
}

void WideClassifier::set_bigrams(std::span<const std::int64_t> known) {
  const auto own = bigrams_.span<std::int64_t>();
  require(known.size() <= own.size() && std::ranges::is_sorted(known),
          "wide classifier: {} bigrams where there is room for {}, or not ascending", known.size(),
          own.size());
  std::ranges::fill(std::ranges::copy(known, own.begin()).out, own.end(), kNone);
}

// For each sequence, rows of the table: its tokens, its known bigrams, and the row that every text has (a
// bias).
struct WideClassifier::Features {
  Tensor ids;      // [features] i32
  Tensor offsets;  // [sequences + 1] i32
};

WideClassifier::Features WideClassifier::features(Tape& tape, const Tensor& tokens,
                                                  const Tensor& offsets) const {
  const auto bounds = offsets.span<std::int32_t>();
  const auto known = bigrams_.span<std::int64_t>();
  // n tokens have at most n - 1 bigrams and a bias: the same memory for every batch of this size.
  const Index most = 2 * tokens.numel() + offsets.numel();  // an empty sequence has a bias, too
  Features found{tape.arena().empty_on_host({most}, DType::i32),
                 tape.arena().empty_on_host(offsets.shape(), DType::i32)};
  const std::int32_t* from = tokens.data<std::int32_t>();
  auto *ids = found.ids.data<std::int32_t>(), *ends = found.offsets.data<std::int32_t>();
  std::int32_t count = 0;
  *ends = 0;
  for (std::size_t s = 0; s + 1 < bounds.size(); ++s) {
    for (std::int32_t i = bounds[s]; i < bounds[s + 1]; ++i) ids[count++] = from[i];
    for (std::int32_t i = bounds[s] + 1; i < bounds[s + 1]; ++i) {
      const std::int64_t pair = bigram(from[i - 1], from[i]);
      const auto place = std::ranges::lower_bound(known, pair);
      if (place != known.end() && *place == pair)
        ids[count++] = static_cast<std::int32_t>(vocabulary_ + (place - known.begin()));
    }
    ids[count++] = static_cast<std::int32_t>(vocabulary_ + bigrams_.numel());
    ends[s + 1] = count;
  }
  found.ids = found.ids.rows(0, count);
  return found;
}

Tensor WideClassifier::operator()(Tape& tape, const Tensor& tokens, const Tensor& offsets) {
  const Features found = features(tape, tokens, offsets);
  return functions::embedding_bag(tape, tape.on_device(found.ids), tape.on_device(found.offsets), kFeature,
                                  weight_.value);
}

}  // namespace conclave
