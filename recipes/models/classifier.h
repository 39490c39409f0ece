// Text, an image or both in, class out. A text's tokens are embedded, an image goes through a convolutional
// encoder that leaves one row or a grid of them; an example's rows together pass pre-norm Transformer layers
// whose feed-forward part is a mixture of experts, which so serve both. Then mean and maximum over each
// example's rows, and a linear head; and beside all that, where a recipe asks for it, a linear model of the
// texts' bigrams.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "data/dynamic_batcher.h"
#include "parallel/moe/moe_layer.h"
#include "recipes/models/image_encoder.h"
#include "recipes/models/wide_classifier.h"
#include "recipes/recipe.h"

namespace conclave {

/// A batch's arrays as tensors in host memory, borrowed from it.
struct ModelInput {
  Tensor tokens;           ///< [text tokens] i32
  Tensor positions;        ///< [text tokens] i32
  Tensor text_offsets;     ///< [sequences + 1] i32, of tokens
  Tensor offsets;          ///< [sequences + 1] i32, of rows: a text's, then its image's
  Tensor labels;           ///< [sequences] i32
  Tensor in_domain;        ///< [sequences] i32, for ForwardContext
  Tensor images;           ///< [images, bytes of one] u8
  Tensor image_sequences;  ///< [images] i32
};
/// `batch` must outlive the result and not change meanwhile.
ModelInput model_input(const Batch& batch);

class Classifier : public Module {
 public:
  struct Sizes {
    Index vocabulary = 0;  ///< 0: no texts
    Index max_length = 0, classes = 0;
    std::int32_t unknown_token = 0;  ///< what token dropout puts in place of a token
    ImageShape image = {};           ///< empty: no images
  };

  /// `grid` must outlive the model.
  Classifier(const Recipe& recipe, const Sizes& sizes, const ProcessGrid& grid);
  ~Classifier() override;

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
  Output forward(Tape& tape, ForwardContext& context, const ModelInput& input, bool guess = false);

  double flops(Extent& extent) const override;

  /// Rows that stand for an image; 0 without images.
  Index image_tokens() const { return images_ ? images_->rows : 0; }

  /// The linear model beside the encoder, or null.
  WideClassifier* wide() { return wide_.get(); }

  /// The MoE layers, in order, and what they are called ("layers.0.moe").
  std::vector<std::pair<std::string, MoeLayer*>> moe_layers();

 private:
  struct Layer;
  struct HiddenTokens;

  struct Texts : Module {
    Texts(Index vocabulary, Index max_length, Index hidden);
    Embedding tokens, positions;
  };
  struct Images : Module {
    Images(const ImageRecipe& recipe, const ImageShape& image, Index hidden, Communicator& world);
    /// pixels [images, bytes of one] -> [images x rows, hidden]
    Tensor operator()(Tape& tape, ForwardContext& context, const Tensor& pixels);
    Communicator& world;
    ImageShape shape;
    ImageEncoder encoder;
    Index grid = 1, rows = 1;  // pixels that the encoder leaves, and rows made of them
    std::optional<Embedding> positions;
  };

  HiddenTokens hide_tokens(Tape& tape, ForwardContext& context, const ModelInput& input) const;
  /// The rows of texts and those of images, example by example.
  static Tensor merge(Tape& tape, const Tensor& texts, const Tensor& images, Index image_rows,
                      const ModelInput& input);

  ModelRecipe options_;
  Sizes sizes_;
  std::unique_ptr<Texts> texts_;
  std::unique_ptr<Images> images_;
  std::vector<std::unique_ptr<Layer>> layers_;
  LayerNorm final_norm_;
  Linear head_;
  std::unique_ptr<WideClassifier> wide_;
  Parameter* guess_bias_ = nullptr;  // [vocabulary]; the guesses' weight is the token embedding
};

}  // namespace conclave
