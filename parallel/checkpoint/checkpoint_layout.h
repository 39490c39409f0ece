// Who writes what. A replicated tensor is on every rank and must be written once; a shard is on every rank of
// a data-parallel group. All ranks tell each other which rows they hold, and then each derives the same
// assignment: shards first, then the replicated tensors, each to whichever of its holders has the fewest
// bytes to write so far.
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
    Index first_checksum;  // in the table of all checksums
    Index checksums;       // 1, or one per row
  };
  /// Rows of one tensor that this rank writes.
  struct Part {
    std::size_t tensor;
    Index first_row, rows;
    std::size_t staging_offset, bytes;
  };

  std::vector<TensorPlan> tensors;  // in the order of the entries
  std::vector<Part> parts;
  Index checksums = 0;            // rows of the table
  std::size_t staging_bytes = 0;  // of this rank's parts
  std::uint64_t total_bytes = 0;  // of all tensors

  /// Collective. Throws the same Error on every rank where the entries of the ranks do not go together: an
  /// entry is malformed, names or shapes differ between ranks, or rows are held by none or overlap.
  static CheckpointLayout agree(std::span<const TensorEntry> entries, Communicator& group);

  /// Changes when anything about the entries that agree() looks at does.
  static std::uint64_t signature(std::span<const TensorEntry> entries);
};

}  // namespace conclave
