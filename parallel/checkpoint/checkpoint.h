// A checkpoint is one HDF5 file per step, DIRECTORY/step-00000100.h5, that any number of ranks can load
// whatever number wrote it:
//
//     /                         attributes: format "conclave-checkpoint", schema_version, step
//     /state/{recipe,metadata}  text; /state/tokenizer u8 bytes
//     /model/layers/0/moe/experts/up/weight, /optimizer/first_moment/...: the tensors, by name
//
// Every tensor has an attribute "dtype" (bf16 is stored as uint16) and an attribute "xxh3_128", u8 [n, 16]:
// XXH3-128 of its little-endian bytes, one of the whole (replicated tensors) or one per row of dimension 0
// (tensors divided among the expert-parallel ranks), so that it does not depend on who wrote which rows.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "core/tensor.h"

namespace conclave {

inline constexpr std::int64_t kCheckpointSchema = 1;

/// One tensor of a model or an optimizer, as one rank holds it.
struct TensorEntry {
  std::string name;      ///< "model/layers/0/weight"; components between slashes are not empty
  Tensor values;         ///< contiguous; this rank's rows of dimension 0 where sharded, else everything
  Shape global_shape;    ///< over all ranks
  Index first_row = 0;   ///< of `values` within the global tensor
  bool sharded = false;  ///< divided along dimension 0 (global expert index); else the same bits on all ranks
};

/// Throws Error naming the tensor where name, values, global_shape and first_row do not go together.
void check_entry(const TensorEntry& entry);

struct CheckpointState {
  std::int64_t step = 0;  ///< not negative
  std::string recipe;     ///< TOML text
  std::string
      metadata;  ///< JSON text: random state, data position, tokenizer hash, metrics, class names, ...
  std::string tokenizer;  ///< serialized
};

/// What became of one save; the same on every rank.
struct SaveOutcome {
  bool saved = false;
  std::int64_t step = 0;
  std::string path;
  std::string message;      ///< why it was not saved: which rank, what it did, the system's reason
  std::uint64_t bytes = 0;  ///< of tensors, over all ranks
  double seconds = 0;       ///< from the copy to the rename
};

struct CheckpointFile {
  std::int64_t step;
  std::string path;
};

std::string checkpoint_path(const std::string& directory, std::int64_t step);

/// By rising step; those that only look like checkpoints by name as well. Empty where there is no directory.
std::vector<CheckpointFile> list_checkpoints(const std::string& directory);

struct SetAside {
  std::size_t checkpoints = 0;
  std::string folder;  ///< where they are now; "" where there were none
};

/// Moves those of a later step than `step` into the first of the folders "earlier", "earlier-2", ... of
/// `directory` that is not there yet: they are of a run that a new one does not go on from, and would be
/// taken for the newest of that. Throws Error. For one rank to call.
SetAside set_aside_checkpoints(const std::string& directory, std::int64_t step);

/// Path of the highest step that opens and is complete (sizes and state); where `verified`, the file is read,
/// and every tensor matches its checksum, too. Those skipped are told in `warnings`. For one rank to call and
/// tell the others.
std::optional<std::string> newest_checkpoint(const std::string& directory,
                                             std::vector<std::string>* warnings = nullptr,
                                             bool verified = false);

}  // namespace conclave
