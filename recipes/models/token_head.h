// Predicts tokens; its weight is the table that embeds them. If the table has a width of its own, rows are
// first mapped to that width, as in ALBERT (Lan et al. 2019, arXiv:1909.11942).
#pragma once

#include <optional>

#include "autograd/nn/layers.h"
#include "recipes/settings/recipe.h"

namespace conclave {

class TokenHead : public Module {
 public:
  TokenHead(Index vocabulary, const ModelRecipe& model);
  /// x [rows, hidden], table [vocabulary, width] -> [rows, vocabulary]
  Tensor operator()(Tape& tape, const Tensor& x, const Tensor& table) const;
  double flops(Extent& extent) const override;

 private:
  Index vocabulary_, width_;
  Parameter& bias_;
  std::optional<Linear> transform_;
  std::optional<LayerNorm> norm_;
};

}  // namespace conclave
