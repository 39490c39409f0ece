// What the tasks of a model share. A text's tokens are embedded, an image goes through a convolutional
// encoder that leaves one row or a grid of them; rows of an example together pass pre-norm Transformer layers
// whose feed-forward part is a mixture of experts, which so serve both.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "parallel/moe/moe_layer.h"
#include "recipes/models/image_encoder.h"
#include "recipes/models/model_input.h"
#include "recipes/recipe.h"

namespace conclave {

/// What a model of some examples is built for.
struct ModelSizes {
  Index vocabulary = 0;  ///< 0: no texts
  Index max_length = 0, classes = 0;
  std::int32_t unknown_token = 0;  ///< what stands in place of a token that is hidden
  std::int32_t end_token = 0;      ///< what follows a text's last token
  ImageShape image = {};           ///< empty: no images
};

/// A part of a model, and what it costs to compute one example's forward pass.
struct Cost {
  std::string name;  ///< as in its parameters' names
  Index parameters = 0;
  double flops = 0;  ///< as Module::flops counts them, of all its uses
};
/// Of a module's children, `uses` times each, on an example of sequences of those extents.
void add_costs(const std::string& prefix, const Module& module, std::vector<Extent> sequences,
               std::vector<Cost>& costs, Index uses = 1);

class Trunk : public Module {
 public:
  /// `grid` must outlive the trunk. `encodes_images`: some task is shown images. `drawn_rows`: of an
  /// image that a task draws; 0: none does.
  /// `quantization`, which outlives it, is its experts'; null: they are not quantized.
  Trunk(const Recipe& recipe, const ModelSizes& sizes, bool encodes_images, Index drawn_rows,
        const ProcessGrid& grid, Quantization* quantization = nullptr);
  ~Trunk() override;

  bool has_texts() const { return texts_ != nullptr; }
  bool has_images() const { return images_ != nullptr; }
  /// Rows that stand for an image; 0 without images.
  Index image_tokens() const { return images_ ? images_->rows : 0; }
  /// The token embedding's table [vocabulary, width], for heads that share it.
  const Tensor& token_table() const { return texts_->tokens.table(); }

  /// tokens and their positions, [tokens] i32 in host memory -> [tokens, hidden]
  Tensor embed(Tape& tape, const Tensor& tokens, const Tensor& positions);
  /// pixels [images, bytes of one] u8, in host memory -> [images x image_tokens(), hidden]
  Tensor encode(Tape& tape, ForwardContext& context, const Tensor& pixels);
  /// Rows of images and of texts -> those of each example one after another, its image's first: `image_rows`
  /// for each image. As they come in where one of the two is undefined.
  static Tensor merge(Tape& tape, const Tensor& images, const Tensor& texts, Index image_rows,
                      const ModelInput& input);
  /// Before transform(): where image and text have experts of their own, routers are told to send rows of
  /// images, as merge() leaves them, to the first half of the experts, and those of texts to the second.
  void separate_experts(Tape& tape, ForwardContext& context, const ModelInput& input, DType dtype) const;
  /// x [rows, hidden] through all layers and the last normalization; offsets [sequences + 1] i32, in host
  /// memory, are of x's rows. Collective over the expert-parallel group.
  Tensor transform(Tape& tape, ForwardContext& context, Tensor x, const Tensor& offsets,
                   kernels::AttentionMask mask = kernels::AttentionMask::none);

  /// Memory for transform() to go on: of at most `sequences` sequences of `rows` rows. Throws Error where
  /// what a row becomes depends on rows behind it. For trunks that have texts.
  KeyValueCache cache(Arena& arena, Index sequences, Index rows) const;
  /// The same as transform() by a causal mask, for x [rows of a pass of `cache`, hidden], which go on from
  /// the rows that went through before. Without context.training, and on a tape that does not record.
  Tensor transform(Tape& tape, ForwardContext& context, Tensor x, KeyValueCache& cache);

  /// The MoE layers, in order, and what they are called ("layers.0.moe"). Those that are shared are one.
  std::vector<std::pair<std::string, MoeLayer*>> moe_layers();

  /// Of its parts, where a task shows it a text of so many tokens (0: none), and an image to encode or not,
  /// and has sequences of so many rows transformed.
  std::vector<Cost> costs(Index tokens, bool image, const std::vector<Extent>& sequences) const;

 private:
  struct Layer;

  // attend(layer, x, i) is what attention makes of x in the layer that is applied i-th.
  template <class Attend>
  Tensor through_layers(Tape& tape, ForwardContext& context, Tensor x, const Tensor& offsets, Attend attend);

  struct Texts : Module {
    Texts(const ModelSizes& sizes, const ModelRecipe& model);
    Embedding tokens, positions;
    std::optional<Linear> projection;  // from the tables' width, where that is another
  };
  struct Images : Module {
    Images(const ImageRecipe& recipe, const ImageShape& image, Index hidden, Communicator& world);
    Communicator& world;
    ImageShape shape;
    ImageEncoder encoder;
    Index grid = 1, rows = 1;  // pixels that the encoder leaves, and rows made of them
    std::optional<Embedding> positions;
  };

  Index depth_, hidden_;
  Index separate_experts_;  // in each layer, where each modality has half of them; else 0
  double dropout_, embedding_dropout_;
  std::unique_ptr<Texts> texts_;
  std::unique_ptr<Images> images_;
  std::vector<std::unique_ptr<Layer>> layers_;  // applied in turn, until depth_ have been
  LayerNorm final_norm_;
};

}  // namespace conclave
