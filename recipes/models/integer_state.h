// Checkpoints of models with integer weights. A quantized weight is i8 under its own name; "..._scale" holds
// its step, f32, for each output channel. All other tensors are the same as in other checkpoints.
#pragma once

#include <vector>

#include "parallel/checkpoint/checkpoint_reader.h"
#include "recipes/models/model_state.h"

namespace conclave {

/// model_entries() of a quantized model, with integer weights and their scales.
std::vector<TensorEntry> integer_entries(const ParameterSet& parameters, Model& model);

/// Throws Error if a weight is integers in the checkpoint and not in `entries`.
void expect_no_integers(const CheckpointReader& reader, std::span<const TensorEntry> entries);

/// Loads a model from a checkpoint with or without integer weights. Collective where the reader is. Throws
/// Error if the checkpoint lacks a tensor. With `unquantized_too` it may lack what quantizers learn, which
/// then keeps its values.
void load_model(const CheckpointReader& reader, const ParameterSet& parameters, Model& model,
                bool unquantized_too);

}  // namespace conclave
