// A linear classifier of texts by their tokens and pairs of adjacent tokens: the wide half of a wide and deep
// model (Cheng et al. 2016, arXiv:1606.07792). It remembers which phrase belongs to which class, where a
// Transformer generalizes. It has a loss of its own and makes other errors, so that both together are better
// than either.
#pragma once

#include <span>

#include "autograd/functions/functions.h"
#include "autograd/nn/module.h"

namespace conclave {

class WideClassifier : public Module {
 public:
  /// The value of features. AdamW moves every weight by about the learning rate, whatever its gradient; with
  /// features this large, the same rate suits this table and the encoder's matrices. Measured on WordNet: 5
  /// and 10 are alike, 1 is slow, 20 overfits.
  static constexpr double kFeature = 10;

  /// Room for `bigrams` pairs; none are known before set_bigrams.
  WideClassifier(Index vocabulary, Index bigrams, Index classes);

  /// The pairs to use, at most as many as there is room for, ascending (frequent_bigrams).
  void set_bigrams(std::span<const std::int64_t> known);
  /// [bigrams] i64, ascending; the largest i64 where there is none. Part of the model's state, not trained.
  const Tensor& bigrams() const { return bigrams_; }

  /// Scores [sequences, classes] for squared_hinge, each about 1 for the class and -1 for the others; from
  /// tokens [tokens] i32 by offsets [sequences + 1] i32.
  Tensor operator()(Tape& tape, const Tensor& tokens, const Tensor& offsets);

 private:
  struct Features;
  Features features(Tape& tape, const Tensor& tokens, const Tensor& offsets) const;

  Index vocabulary_;
  Tensor bigrams_;
  Parameter& weight_;  // [vocabulary + bigrams + 1, classes]: of each token, each bigram, and every text
};

}  // namespace conclave
