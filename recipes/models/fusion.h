// Combines an example's image and text, each of which passes the trunk as its own sequence. "cross": each
// attends to the other through cross-attention, with one query matrix for both, and their pooled vectors are
// added with learned weights. "late": their pooled vectors are concatenated.
#pragma once

#include <optional>

#include "autograd/nn/layers.h"
#include "recipes/models/model_input.h"
#include "recipes/settings/recipe.h"

namespace conclave {

class Fusion : public Module {
 public:
  /// model.fusion is "cross" or "late".
  explicit Fusion(const ModelRecipe& model);

  /// [2 sequences + 1] i32, in host memory: offsets of the rows that Trunk::merge returns, for each example
  /// its image's rows, then its text's.
  static Tensor offsets(Tape& tape, const ModelInput& input);

  /// x [rows, hidden], normalized, with rows in that order -> with cross-attention, x plus what each row gets
  /// from the other modality; else x.
  Tensor exchange(Tape& tape, ForwardContext& context, const Tensor& x, const Tensor& offsets) const;
  /// pooled [2 sequences, width], zeros for what an example lacks -> [sequences, vectors() x width]. With
  /// "cross", a modality has all the weight if the example lacks the other.
  Tensor join(Tape& tape, const Tensor& pooled, const Tensor& offsets) const;
  Index vectors() const { return cross_ ? 1 : 2; }

  /// The image's weight in an example that has both; the text's is 1 minus that. None for "late".
  std::optional<double> image_weight() const;

  using Module::flops;
  double flops(const Extent& image, const Extent& text) const;

 private:
  double dropout_;
  std::optional<CrossAttention> cross_;
  Parameter *image_ = nullptr, *text_ = nullptr;  // [1, 1]; their softmax gives the weights
};

}  // namespace conclave
