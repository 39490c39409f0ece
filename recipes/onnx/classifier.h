// Exports a classifier of texts, images or both as an ONNX graph: the trunk, its head, and the linear model
// beside them. The graph computes what `conclave predict` does, up to rounding.
#pragma once

#include <string>

#include "recipes/models/loaded_model.h"

namespace conclave::onnx {

/// Returns the ONNX file. Its inputs are
///
///     input_ids       [batch, sequence] i64, a text's tokens, at most max_length, then any ids as padding
///     attention_mask  [batch, sequence] i64, 1 for tokens, 0 for padding; without a text, all 0
///     image           [batch, height, width, channels] u8
///
/// (only those that the model takes). Its outputs are `logits` and `probabilities` [batch, classes] f32. Its
/// metadata are recipe_name, recipe (TOML), step, class_names (JSON), max_length, and the tokenizer's
/// SentencePiece model in base64. Products use integers where the model's do. Throws Error, with the reason,
/// for a model that cannot be exported.
std::string classifier_file(LoadedModel& loaded);

}  // namespace conclave::onnx
