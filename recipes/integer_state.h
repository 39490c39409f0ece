// A model in integers, as a checkpoint has it: a quantized weight is i8 under its own name, in steps of
// "..._scale", f32, of each output channel; all else is as it was.
#pragma once

#include <vector>

#include "parallel/checkpoint/checkpoint_reader.h"
#include "recipes/model_state.h"

namespace conclave {

/// As model_entries(), of a model that is quantized.
std::vector<TensorEntry> integer_entries(const ParameterSet& parameters, Model& model);

/// Throws Error where the checkpoint's weights are integers, and those of `entries` are not.
void expect_no_integers(const CheckpointReader& reader, std::span<const TensorEntry> entries);

/// Fills a model from a checkpoint, be its weights integers or not. Collective where the reader is. Throws
/// Error where one of its tensors is missing; where `unquantized_too`, what quantizers learn may be, and
/// stays as it is.
void load_model(const CheckpointReader& reader, const ParameterSet& parameters, Model& model,
                bool unquantized_too);

}  // namespace conclave
