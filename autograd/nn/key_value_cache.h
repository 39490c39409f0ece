// What attention keeps of rows that sequences had before, so that further ones see them without computing
// them again: their keys and values, layer by layer. All sequences have as many rows, packed end to end, as
// the attention kernel wants its keys. Each pass copies them, which costs no more than attention's reading
// them, and is what lets sequences branch and end: those of the next pass name the ones they go on from. A
// cache for each sequence would be a call of attention for each, too.
#pragma once

#include <span>

#include "autograd/tape.h"

namespace conclave {

class KeyValueCache {
 public:
  /// All its memory is taken from `arena` now: for `layers` layers of at most `sequences` sequences of
  /// `rows` rows, with a key and a value of `hidden` elements each.
  KeyValueCache(Arena& arena, Index layers, Index sequences, Index rows, Index hidden, DType dtype);

  /// Begins a pass of `rows` further rows for each of parents.size() sequences: number i goes on from
  /// parents[i] of those there were. Before the first pass there is nothing to go on from: parents are
  /// then 0, 1, ... Throws Error where there is no such parent, or no room.
  void extend(Tape& tape, std::span<const std::int32_t> parents, Index rows);

  /// Of this pass's rows [sequences x rows, 2 hidden] of a layer -> those of all rows; valid until the next
  /// pass. Once for each layer in a pass, in their order, else Error.
  Tensor append(Index layer, const Tensor& key_value);

  /// Of this pass, [sequences + 1] i32: of its rows in host memory, and where the tape computes, and of all
  /// rows.
  const Tensor& host_offsets() const { return host_offsets_; }
  const Tensor& offsets() const { return offsets_; }
  const Tensor& key_offsets() const { return key_offsets_; }
  Index sequences() const { return sequences_; }
  Index rows() const { return rows_; }  ///< of each sequence, with this pass's

 private:
  Index most_sequences_, most_rows_;
  Index sequences_ = 0, rows_ = 0;
  Index kept_ = 0;                   // rows of the pass before, over all sequences
  Index passes_ = 0, appended_ = 0;  // layers, in this pass
  // [layers + 1, most rows over all sequences, 2 hidden]: one is spare, to which a layer's rows are copied,
  // and whose place is spare then. After a pass every layer's place is one further back.
  Tensor memory_;
  Tensor places_, host_offsets_, offsets_, key_offsets_;
};

}  // namespace conclave
