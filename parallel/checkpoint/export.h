// A model without its optimizer, for other programs: the tensors under "model/", without that prefix. As HDF5
// here, as safetensors in safetensors.h.
#pragma once

#include <string>
#include <vector>

#include "parallel/checkpoint/checkpoint_reader.h"

namespace conclave {

/// Writes the model's tensors of a checkpoint to the HDF5 file `path`, verified, one tensor in memory at a
/// time, with attributes "recipe" and "step". `path` appears only when complete. For one rank to call. Throws
/// Error.
void export_hdf5(const CheckpointReader& checkpoint, const std::string& path);

/// Names of the tensors that are exported, sorted; throws Error where there is none.
std::vector<std::string> model_tensors(const CheckpointReader& checkpoint);
/// "model/head/weight" -> "head/weight"
std::string exported_name(const std::string& name);

}  // namespace conclave
