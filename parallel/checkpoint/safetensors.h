// The safetensors format of Hugging Face: the header's length in 8 little-endian bytes, a JSON header with
// the dtype, shape and place of every tensor, then the tensors' bytes without gaps.
// https://github.com/huggingface/safetensors#format
#pragma once

#include <string>

#include "parallel/checkpoint/export.h"

namespace conclave {

/// Writes the model's tensors of a checkpoint (names without the prefix "model/") to `path`. Verifies
/// checksums, and holds one tensor in memory at a time. The header's metadata have the recipe's name and TOML
/// text, the step, and from the notes class_names (JSON) and quantization. `path` appears only when complete.
/// Call it on one rank. Throws Error.
void export_safetensors(const CheckpointReader& checkpoint, const std::string& path,
                        const ExportNotes& notes);

}  // namespace conclave
