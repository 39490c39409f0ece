#include "recipes/models/token_head.h"

namespace conclave {

TokenHead::TokenHead(Index vocabulary, const ModelRecipe& model)
    : vocabulary_(vocabulary),
      width_(model.embedding > 0 ? model.embedding : model.hidden),
      bias_(add_parameter("bias", {vocabulary}, Initializer::constant(0), false)) {
  if (model.embedding == 0) return;
  add_module("transform", transform_.emplace(model.hidden, width_));
  add_module("norm", norm_.emplace(width_));
}

Tensor TokenHead::operator()(Tape& tape, const Tensor& x, const Tensor& table) const {
  const Tensor rows = transform_ ? (*norm_)(tape, (*transform_)(tape, x, Activation::gelu)) : x;
  return functions::linear(tape, rows, table, bias_.value);
}

double TokenHead::flops(Extent& extent) const {
  const double to_width = transform_ ? transform_->flops(extent) : 0;
  return to_width + 2.0 * static_cast<double>(extent.rows() * width_ * vocabulary_);
}

}  // namespace conclave
