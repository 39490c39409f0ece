// Exports a model without its optimizer, for other programs: the tensors under "model/", without that prefix.
// This file exports HDF5, safetensors.h the safetensors format.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "parallel/checkpoint/checkpoint_reader.h"

namespace conclave {

/// Attributes of a tensor.
using TensorNotes = std::vector<std::pair<std::string, std::variant<std::string, std::int64_t>>>;

/// What an export contains in addition to the tensors.
struct ExportNotes {
  std::string recipe_name = {};
  std::string quantization = {};  ///< how integers represent the weights
  std::vector<std::string> class_names = {},
                           pieces = {};  ///< pieces are indexed by token number; both may be empty
  std::vector<float> piece_scores = {};  ///< log probability of each piece
  std::string tokenizer = {};            ///< serialized
  std::map<std::string, TensorNotes> of_tensors = {};  ///< by the tensor's name in the checkpoint
};

/// Writes the model's tensors of a checkpoint to the HDF5 file `path`, with attributes and, if given,
/// class_names and tokenizer/{pieces, scores, model}. Verifies checksums, and holds one tensor in memory at a
/// time. `path` appears only when complete. Call it on one rank. Throws Error.
void export_hdf5(const CheckpointReader& checkpoint, const std::string& path, const ExportNotes& notes = {});

/// Sorted names of the tensors to export; throws Error if there are none.
std::vector<std::string> model_tensors(const CheckpointReader& checkpoint);
/// "model/head/weight" -> "head/weight"
std::string exported_name(const std::string& name);

}  // namespace conclave
