// How an example's image and text come together where each passes the trunk by itself, as a sequence of its
// own. "cross": each sees the other through cross-attention, with one query matrix for both, and what they
// are pooled to is added up by learned weights of the two. "late": what they are pooled to is put side by
// side.
#pragma once

#include <optional>

#include "autograd/nn/layers.h"
#include "recipes/models/model_input.h"
#include "recipes/recipe.h"

namespace conclave {

class Fusion : public Module {
 public:
  /// model.fusion is "cross" or "late".
  explicit Fusion(const ModelRecipe& model);

  /// [2 sequences + 1] i32, in host memory: of rows as Trunk::merge leaves them, those of each example's
  /// image, then those of its text.
  static Tensor offsets(Tape& tape, const ModelInput& input);

  /// x [rows, hidden], normalized and in that order -> with cross-attention, x and what each row saw in the
  /// other modality; else x.
  Tensor exchange(Tape& tape, ForwardContext& context, const Tensor& x, const Tensor& offsets) const;
  /// pooled [2 sequences, width], zeros for what an example lacks -> [sequences, vectors() x width]. By
  /// weights, where an example that lacks a modality gives the other all.
  Tensor join(Tape& tape, const Tensor& pooled, const Tensor& offsets) const;
  Index vectors() const { return cross_ ? 1 : 2; }

  /// Of an example that has both, the image's weight; the text's is what is left of 1. None for "late".
  std::optional<double> image_weight() const;

  using Module::flops;
  double flops(const Extent& image, const Extent& text) const;

 private:
  double dropout_;
  std::optional<CrossAttention> cross_;
  Parameter *image_ = nullptr, *text_ = nullptr;  // [1, 1], what the weights are the softmax of
};

}  // namespace conclave
