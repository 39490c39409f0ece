// The safetensors format of Hugging Face: 8 bytes little-endian length, a JSON header of that length that
// names dtype, shape and place of every tensor, then their bytes without gaps.
// https://github.com/huggingface/safetensors#format
#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "parallel/checkpoint/export.h"

namespace conclave {

/// Writes the model's tensors ("model/..." without that prefix) of a checkpoint to `path`, verified, one
/// tensor in memory at a time; the header's metadata tells the recipe's name, its TOML text, the step, and of
/// the notes class_names (JSON) and quantization. `path` appears only when complete. For one rank to call.
/// Throws Error.
void export_safetensors(const CheckpointReader& checkpoint, const std::string& path,
                        const ExportNotes& notes);

struct SafetensorsFile {
  struct Entry {
    DType dtype;
    Shape shape;
    std::uint64_t begin, end;  // bytes from the start of the file
  };
  std::map<std::string, Entry> tensors;
  std::map<std::string, std::string> metadata;
};

/// The header of any file: every size is checked against the file's before memory is taken for it, and the
/// tensors fill the file exactly. Throws Error, naming the file and the tensor.
SafetensorsFile read_safetensors(const std::string& path);

}  // namespace conclave
