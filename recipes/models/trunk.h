// The part of a model that its tasks share. A text's tokens are embedded; an image goes through a
// convolutional encoder that leaves one row or a grid of rows. An example's rows together pass pre-norm
// Transformer layers. The layers' feed-forward part is a mixture of experts, which serves both texts and
// images.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "parallel/moe/moe_layer.h"
#include "recipes/models/image_encoder.h"
#include "recipes/models/model_input.h"
#include "recipes/models/model_sizes.h"
#include "recipes/settings/recipe.h"

namespace conclave {

/// A part of a model, and the cost of its forward pass for one example.
struct Cost {
  std::string name;  ///< as in its parameters' names
  Index parameters = 0;
  double flops = 0;  ///< as Module::flops counts them, for all its uses
};
/// Adds the costs of a module's children, each used `uses` times, for an example with these sequences.
void add_costs(const std::string& prefix, const Module& module, std::vector<Extent> sequences,
               std::vector<Cost>& costs, Index uses = 1);

class Trunk : public Module {
 public:
  /// `grid` must outlive the trunk. `encodes_images`: some task is shown images. `drawn_rows`: rows of an
  /// image that a task draws; 0: no task draws. `quantization`, for the experts, must outlive the trunk;
  /// null: they are not quantized.
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
  /// Orders rows of images and of texts by example, each example's image first; an image has `image_rows`
  /// rows. If one of the two is undefined, returns the other.
  static Tensor merge(Tape& tape, const Tensor& images, const Tensor& texts, Index image_rows,
                      const ModelInput& input);
  /// Before transform(): if images and texts have separate experts, makes routers send image rows, ordered as
  /// by merge(), to the first half of the experts, and text rows to the second.
  void separate_experts(Tape& tape, ForwardContext& context, const ModelInput& input, DType dtype) const;
  /// Passes x [rows, hidden] through all layers and the last normalization; offsets [sequences + 1] i32, in
  /// host memory, are those of x's rows. Collective over the expert-parallel group.
  Tensor transform(Tape& tape, ForwardContext& context, Tensor x, const Tensor& offsets,
                   kernels::AttentionMask mask = kernels::AttentionMask::none);

  /// Memory for transform() in steps: at most `sequences` sequences of `rows` rows. Throws Error if a row
  /// depends on rows behind it. For trunks that have texts.
  KeyValueCache cache(Arena& arena, Index sequences, Index rows) const;
  /// transform() with a causal mask, for x [rows of a pass of `cache`, hidden]: the rows that follow those of
  /// earlier passes. Without context.training, and on a tape that does not record.
  Tensor transform(Tape& tape, ForwardContext& context, Tensor x, KeyValueCache& cache);

  /// The MoE layers, in order, with their names ("layers.0.moe"). Layers that are shared are one.
  std::vector<std::pair<std::string, MoeLayer*>> moe_layers();

  /// Of the trunk's parts, for a task with a text of this many tokens (0: none), with an image to encode or
  /// without, that transforms sequences of these extents.
  std::vector<Cost> costs(Index tokens, bool image, const std::vector<Extent>& sequences) const;

 private:
  struct Layer;

  // attend(layer, x, i) applies attention to x, in the layer that is applied i-th.
  template <class Attend>
  Tensor through_layers(Tape& tape, ForwardContext& context, Tensor x, const Tensor& offsets, Attend attend);

  struct Texts : Module {
    Texts(const ModelSizes& sizes, const ModelRecipe& model);
    Embedding tokens, positions;
    std::optional<Linear> projection;  // from the tables' width, if it differs
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
  std::vector<std::unique_ptr<Layer>> layers_;  // applied in turn, depth_ times in all
  LayerNorm final_norm_;
};

}  // namespace conclave
