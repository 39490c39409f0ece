// A checkpoint is one HDF5 file per step, DIRECTORY/step-00000100.h5. Any number of ranks can load it,
// whatever number of ranks wrote it:
//
//     /                         attributes: format "conclave-checkpoint", schema_version, step
//     /state/{recipe,metadata}  text; /state/tokenizer u8 bytes
//     /model/layers/0/moe/experts/up/weight, /optimizer/first_moment/...: the tensors, by name
//
// Every tensor has an attribute "dtype" (bf16 is stored as uint16) and an attribute "xxh3_128", u8 [n, 16]:
// XXH3-128 of its little-endian bytes. Replicated tensors have one checksum of the whole; tensors sharded
// over the expert-parallel ranks have one per row of dimension 0, so checksums do not depend on which rank
// wrote which rows.
#pragma once

#include <cstdint>
#include <functional>
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "core/tensor.h"

namespace conclave {

inline constexpr std::int64_t kCheckpointSchema = 1;

/// One tensor of a model or an optimizer, as one rank holds it.
struct TensorEntry {
  std::string name;      ///< "model/layers/0/weight"; components between slashes must not be empty
  Tensor values;         ///< contiguous; this rank's rows of dimension 0 where sharded, else everything
  Shape global_shape;    ///< over all ranks
  Index first_row = 0;   ///< of `values` within the global tensor
  bool sharded = false;  ///< divided along dimension 0 (experts); else the same bits on all ranks
};

/// Throws Error, naming the tensor, if name, values, global_shape and first_row are not consistent.
void check_entry(const TensorEntry& entry);

struct CheckpointState {
  std::int64_t step = 0;  ///< not negative
  std::string recipe;     ///< TOML text
  std::string
      metadata;  ///< JSON text: random state, data position, tokenizer hash, metrics, class names, ...
  std::string tokenizer;  ///< serialized
};

/// The result of one save; the same on every rank.
struct SaveOutcome {
  bool saved = false;
  std::int64_t step = 0;
  std::string path;
  std::string
      message;  ///< why it was not saved: the rank, the operation, the system's reason; empty if it was
  std::uint64_t bytes = 0;  ///< size of all tensors, over all ranks
  double seconds = 0;       ///< from the copy to the rename
};

struct CheckpointFile {
  std::int64_t step;
  std::string path;
};

std::string checkpoint_path(const std::string& directory, std::int64_t step);

/// Files in `directory` with the name of a checkpoint, by increasing step; they are not opened. Empty if the
/// directory does not exist.
std::vector<CheckpointFile> list_checkpoints(const std::string& directory);

struct SetAside {
  std::size_t checkpoints = 0;
  std::string folder;  ///< where they are now; "" if nothing was set aside
};

/// Moves checkpoints of steps after `step` into the first of the folders "earlier", "earlier-2", ... of
/// `directory` that does not exist yet. They belong to a run that the new run does not continue, and would
/// later be taken for the new run's newest checkpoints. Before that, calls first(folder), for what else
/// belongs there; `always`: also if there are no such checkpoints. Throws Error. Call it on one rank.
SetAside set_aside_checkpoints(const std::string& directory, std::int64_t step,
                               const std::function<void(const std::string& folder)>& first = {},
                               bool always = false);

/// How much of a file is read: its structure, sizes and state; or also the model's tensors, or all tensors,
/// each compared with its checksum.
enum class Verify : std::uint8_t { structure, model, everything };

/// Path of the checkpoint with the highest step, up to `last`, that has no damage in what `verify` says.
/// Reports skipped files in `warnings`. Call it on one rank and broadcast the result.
std::optional<std::string> newest_checkpoint(const std::string& directory, Verify verify,
                                             std::vector<std::string>* warnings = nullptr,
                                             std::int64_t last = std::numeric_limits<std::int64_t>::max());

}  // namespace conclave
