// What of a model and its training goes into a checkpoint, under which name. "model/..." is what one uses:
// the moving average of the weights where the recipe keeps one (the weights being trained are then
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

/// Of `flat`, vectors laid out as the parameters' segments are, each parameter's part: "prefix/...".
std::vector<TensorEntry> parameter_entries(const std::string& prefix, const ParameterSet& parameters,
                                           const std::vector<Tensor>& flat);
/// Parameters, buffers and what the balancers have found for the selection, for use.
std::vector<TensorEntry> model_entries(const ParameterSet& parameters, Model& model);
/// The same and what it takes to train on.
std::vector<TensorEntry> training_entries(const ParameterSet& parameters, Model& model,
                                          const AdamW& optimizer);

}  // namespace conclave
