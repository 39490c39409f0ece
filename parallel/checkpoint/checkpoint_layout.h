// Decides which rank writes which rows. A replicated tensor is on every rank and must be written once; a
// shard is on every rank of a data-parallel group. All ranks exchange which rows they hold, and each derives
// the same assignment: shards first, then the replicated tensors, each to the holder with the fewest bytes
// assigned so far.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "parallel/checkpoint/checkpoint.h"
#include "parallel/communicator.h"

namespace conclave {

struct CheckpointLayout {
  struct TensorPlan {
    std::string name;
    DType dtype;
    Shape shape;           // global
    Index first_checksum;  // index in the table of all checksums
    Index checksums;       // 1, or one per row
  };
  /// Rows of one tensor that this rank writes.
  struct Part {
    std::size_t tensor;
    Index first_row, rows;
    std::size_t staging_offset, bytes;
  };

  std::vector<TensorPlan> tensors;  // in the order of `entries`
  std::vector<Part> parts;
  Index checksums = 0;            // rows of the table of checksums
  std::size_t staging_bytes = 0;  // bytes of this rank's parts, aligned
  std::uint64_t total_bytes = 0;  // bytes of all tensors

  /// Collective. Throws the same Error on every rank if the ranks' entries are not consistent: an entry is
  /// malformed, names or shapes differ between ranks, rows overlap, or no rank holds some rows.
  static CheckpointLayout agree(std::span<const TensorEntry> entries, Communicator& group);

  /// A hash of everything that agree() reads of the entries.
  static std::uint64_t signature(std::span<const TensorEntry> entries);
};

}  // namespace conclave
