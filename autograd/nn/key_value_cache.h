// The keys and values that attention computed for earlier rows of sequences, layer by layer, so that later
// rows see them without computing them again. All sequences have the same number of rows, packed end to end,
// as the attention kernel expects its keys. Each pass copies them. This costs no more than attention's
// reading of them, and lets sequences branch and end: each sequence of a pass names the one it continues.
// With a separate cache per sequence, attention would need one call per sequence.
#pragma once

#include <span>

#include "autograd/tape.h"

namespace conclave {

class KeyValueCache {
 public:
  /// Allocates all memory from `arena` now: for `layers` layers of at most `sequences` sequences of at most
  /// `rows` rows, with a key and a value of `hidden` elements per row.
  KeyValueCache(Arena& arena, Index layers, Index sequences, Index rows, Index hidden, DType dtype);

  /// Begins a pass that adds `rows` rows to each of parents.size() sequences: sequence i continues sequence
  /// parents[i] of the previous pass. Before the first pass the sequences are empty, and parents are 0, 1,
  /// ... Throws Error if a parent does not exist or there is no room.
  void extend(Tape& tape, std::span<const std::int32_t> parents, Index rows);

  /// Appends this pass's rows of a layer, [sequences x rows, 2 hidden], and returns those of all rows so far;
  /// valid until the next pass. Call it once per layer and pass, in the order of layers; else throws Error.
  Tensor append(Index layer, const Tensor& key_value);

  /// Offsets [sequences + 1] i32 of this pass: of its new rows, in host memory and where the tape computes,
  /// and of all rows.
  const Tensor& host_offsets() const { return host_offsets_; }
  const Tensor& offsets() const { return offsets_; }
  const Tensor& key_offsets() const { return key_offsets_; }
  Index sequences() const { return sequences_; }
  Index rows() const { return rows_; }  ///< rows per sequence, including this pass's

 private:
  Index most_sequences_, most_rows_;
  Index sequences_ = 0, rows_ = 0;
  Index kept_ = 0;                   // rows before this pass, over all sequences
  Index passes_ = 0, appended_ = 0;  // layers appended in this pass
  // [layers + 1, most rows over all sequences, 2 hidden]: one place per layer and a spare one. append()
  // copies a layer's rows to the spare place, and the layer's old place becomes the spare one. So each pass
  // moves every layer one place back.
  Tensor memory_;
  Tensor places_, host_offsets_, offsets_, key_offsets_;
};

}  // namespace conclave
