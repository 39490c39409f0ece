// The tensors of a model and its training that a checkpoint holds, and their names. "model/..." are the
// weights and buffers to use: their moving averages if the recipe keeps them (those being trained are then
// "optimizer/trained/...").
#pragma once

#include <string>
#include <vector>

#include "autograd/optim/adamw.h"
#include "parallel/checkpoint/checkpoint.h"
#include "recipes/models/model.h"

namespace conclave {

/// "layers.0.moe.experts.up.weight" -> "model/layers/0/moe/experts/up/weight"
std::string tensor_path(const std::string& prefix, const std::string& parameter);

/// Each parameter's part of `flat`, vectors laid out as the parameters' segments are, named "prefix/...".
std::vector<TensorEntry> parameter_entries(const std::string& prefix, const ParameterSet& parameters,
                                           const std::vector<Tensor>& flat);
/// What inference needs: parameters, buffers, and the balancers' state that changes the selection.
std::vector<TensorEntry> model_entries(const ParameterSet& parameters, Model& model);
/// What continuing the training needs.
std::vector<TensorEntry> training_entries(const ParameterSet& parameters, Model& model,
                                          const AdamW& optimizer);

}  // namespace conclave
