// Text in, class out: token and position embeddings, pre-norm Transformer layers whose feed-forward part is a
// mixture of experts, mean and maximum over each text's tokens, a linear head; and beside all that, where a
// recipe asks for it, a linear model of the texts' bigrams.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "data/dynamic_batcher.h"
#include "parallel/moe/moe_layer.h"
#include "recipes/models/wide_classifier.h"
#include "recipes/recipe.h"

namespace conclave {

/// A batch's index arrays as tensors in host memory, borrowed from it.
struct TextInput {
  Tensor tokens;     ///< [tokens] i32
  Tensor positions;  ///< [tokens] i32
  Tensor offsets;    ///< [sequences + 1] i32
  Tensor labels;     ///< [sequences] i32
  Tensor in_domain;  ///< [sequences] i32, for ForwardContext
};
/// `batch` must outlive the result and not change meanwhile.
TextInput text_input(const Batch& batch);

class TextClassifier : public Module {
 public:
  struct Sizes {
    Index vocabulary, max_length, classes;
    std::int32_t unknown_token;  ///< what token dropout puts in place of a token
  };

  /// `grid` must outlive the model. `dispatch_chunks`: see Dispatcher.
  TextClassifier(const ModelRecipe& model, const MoeRecipe& moe, const Sizes& sizes, const ProcessGrid& grid,
                 Index dispatch_chunks = 0);
  ~TextClassifier() override;

  struct Output {
    /// [sequences, classes]: the encoder's while training, where the wide classifier learns on its own; else
    /// both's.
    Tensor logits;
    /// [hidden tokens, vocabulary]: guesses at what token dropout hid; undefined without.
    Tensor masked_logits;
    Tensor masked_tokens;  ///< [hidden tokens] i32, in host memory: what they were
    Tensor wide_scores;    ///< [sequences, classes] for squared_hinge; undefined without a wide classifier
  };

  /// `guess`: predict the tokens that token dropout hides, too (training only). Collective over the
  /// expert-parallel group.
  Output forward(Tape& tape, ForwardContext& context, const TextInput& input, bool guess = false);

  double flops(Extent& extent) const override;

  /// The linear model beside the encoder, or null.
  WideClassifier* wide() { return wide_.get(); }

  /// The MoE layers, in order, and what they are called ("layers.0.moe").
  std::vector<std::pair<std::string, MoeLayer*>> moe_layers();

 private:
  struct Layer;
  struct HiddenTokens;

  HiddenTokens hide_tokens(Tape& tape, ForwardContext& context, const Tensor& tokens) const;

  ModelRecipe options_;
  Sizes sizes_;
  Embedding token_embedding_, position_embedding_;
  std::vector<std::unique_ptr<Layer>> layers_;
  LayerNorm final_norm_;
  Linear head_;
  std::unique_ptr<WideClassifier> wide_;
  Parameter& guess_bias_;  // [vocabulary]; the guesses' weight is the token embedding
};

}  // namespace conclave
