// A model without its optimizer, for other programs: the tensors under "model/", without that prefix. As HDF5
// here, as safetensors in safetensors.h.
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

/// What an export tells of a model beside its tensors.
struct ExportNotes {
  std::string recipe_name = {};
  std::string quantization = {};                           ///< how integers stand for numbers
  std::vector<std::string> class_names = {}, pieces = {};  ///< the latter by a token's number; may be empty
  std::vector<float> piece_scores = {};                    ///< of each piece: its log probability
  std::string tokenizer = {};                              ///< serialized
  std::map<std::string, TensorNotes> of_tensors = {};      ///< by their names in the checkpoint
};

/// Writes the model's tensors of a checkpoint to the HDF5 file `path`, verified, one tensor in memory at a
/// time, with attributes and beside them class_names and tokenizer/{pieces, scores, model}, as far as there
/// are any. `path` appears only when complete. For one rank to call. Throws Error.
void export_hdf5(const CheckpointReader& checkpoint, const std::string& path, const ExportNotes& notes = {});

/// Names of the tensors that are exported, sorted; throws Error where there is none.
std::vector<std::string> model_tensors(const CheckpointReader& checkpoint);
/// "model/head/weight" -> "head/weight"
std::string exported_name(const std::string& name);

}  // namespace conclave
