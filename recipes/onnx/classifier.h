// A classifier of texts, of images or of both as an ONNX graph: the trunk, the head on it, and the linear
// model beside them. What it computes is what `conclave predict` does, to rounding.
#pragma once

#include <string>

#include "recipes/loaded_model.h"

namespace conclave::onnx {

/// The file, with inputs
///
///     input_ids       [batch, sequence] i64, a text's tokens, max_length at most, and any behind its end
///     attention_mask  [batch, sequence] i64, 1 for tokens, 0 behind a text's end; of no text, 0 throughout
///     image           [batch, height, width, channels] u8
///
/// as far as the model takes them, outputs `logits` and `probabilities` [batch, classes] f32, and metadata:
/// recipe_name, recipe (TOML), step, class_names (JSON), max_length, and the tokenizer's SentencePiece model
/// in base64. Products are in integers where the model's are. Throws Error, with the reason, for what cannot
/// be exported.
std::string classifier_file(LoadedModel& loaded);

}  // namespace conclave::onnx
