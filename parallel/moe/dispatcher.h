// Moves tokens' rows to the ranks that hold their experts, and back. Nothing is dropped and nothing is
// allocated beyond the plan: a rank receives at most `capacity` rows at a time, and where the routing is so
// skewed that more are due, all ranks of the group go through further rounds. Everybody knows every rank's
// counts, so everybody derives the same rounds without further talk.
//
// A rank's rows are queued by (local expert, source rank, order at the source); round t takes rows [t
// capacity, (t + 1) capacity) of each rank's queue.
//
// No row is copied that need not be: a token's row is written where it is sent from or, for an expert of this
// rank, where that reads it; and what arrives is received there. So the rows of a round are in two tensors,
// `away` and the experts' own, and slots number them in this order. The gradient of dispatch is a combine and
// the reverse (DeepSeek-AI 2024, section 3.2).
//
// So that some rows travel while others are computed, each rank's queue of a round is cut into chunks of
// ceil(rows / chunks) rows, which are sent, computed and sent back on their own. dispatch() gathers all rows
// and sends every chunk's. Then, of one chunk after the other while the next ones are under way, arrive()
// waits for the rows, the experts compute them, and leave() sends back what they made. combine() waits for
// all of that. The backward pass is the mirror image: combine's node computes the results' gradients and
// sends every chunk's, those of the last chunk first; leave's waits for them, arrive's sends home what the
// experts' made of them, and dispatch's waits for all of that. What comes back, the gradients that leave, and
// those that come home take the places in `away` of what went before, so a recording can be walked only once.
#pragma once

#include <array>
#include <cstddef>
#include <span>

#include "autograd/tape.h"
#include "core/kernels/permutation.h"
#include "parallel/communicator.h"

namespace conclave {

/// Who sends how much to whom, for one forward pass; lives in the tape's arena.
struct DispatchPlan {
  std::span<Index> counts;  ///< [ranks, experts]: rows of rank r for expert e
  std::span<Index> due;     ///< [ranks]: rows for the experts of rank r
  Index capacity = 0;
  Index rounds = 1;
  bool padded = false;  ///< while memory is being planned: every round is full on every rank
  Index row_count = 0;  ///< rows this rank sends, over all rounds
};

constexpr std::size_t kMostChunks = kernels::kMostRowParts - 1;

/// A tensor for each chunk of a round; undefined behind the last.
using ChunkRows = std::array<Tensor, kMostChunks>;

/// Consecutive rows of a round's on this rank.
struct DispatchChunk {
  Index first = 0, rows = 0;     ///< among the round's; and of them
  Index padding = 0;             ///< rows of zeros behind the last expert's
  std::span<PeerRows> leaving;   ///< blocks of `away`
  std::span<PeerRows> arriving;  ///< blocks of the chunk's rows
  std::span<Index> offsets;      ///< [local experts + 1] of the chunk's rows; most experts have none in it
};

/// One round of a plan from this rank's point of view.
struct DispatchRound {
  Tensor slots;  ///< [tokens, k] i32: the row, in `away` and then the experts', of a token's choice; -1: none
  Tensor away;   ///< [n, hidden]: rows that go to other ranks' experts, and later what comes back for them
  std::span<DispatchChunk> chunks;
  std::span<Index> sequences;  ///< [runs + 1] of the experts' rows; see exchange_sequences
  std::span<Index> examples;   ///< [runs], likewise
  Index rows = 0;              ///< the experts' rows, of all chunks
};

class Dispatcher {
 public:
  /// `group`: the ranks that share the experts, `experts` in all; each holds experts / group.size()
  /// consecutive ones. `one_round`: the capacity planned is all ranks' rows, whatever the factor, and they
  /// are one chunk. `chunks`: of a round, at most kMostChunks; 0: two on CUDA devices, else one. A group of
  /// one rank, where nothing travels, has one.
  Dispatcher(Communicator& group, Index experts, double capacity_factor, bool one_round = false,
             Index chunks = 1);

  /// Rows a rank may receive per round; set by the largest planning pass, or by hand (tests).
  Index capacity() const { return capacity_; }
  void set_capacity(Index rows) { capacity_ = rows; }
  Index chunks() const { return chunks_; }

  /// Collective. `local` [experts]: how often this rank's tokens chose each expert.
  DispatchPlan plan(Tape& tape, std::span<const Index> local);
  /// chosen [tokens, k] i32: the tokens' experts; x [tokens, hidden] is what will be dispatched.
  DispatchRound round(Tape& tape, const DispatchPlan& plan, const Tensor& chosen, const Tensor& x,
                      Index number) const;

  /// Collective, for a plan of one round, in one chunk. Fills round.sequences: runs of rows that are of one
  /// sequence and one expert, given the offsets [sequences + 1] i32, in host memory, of this rank's tokens.
  /// Rows of padding are a run each. Where examples are told apart, round.examples has that of each run.
  void exchange_sequences(Tape& tape, const DispatchPlan& plan, const Tensor& offsets,
                          DispatchRound& round) const;

  /// x [tokens, hidden] -> [round.rows, hidden], where the round's rows arrive chunk by chunk, each sorted by
  /// expert. Differentiable where the plan has one round. `meanwhile` is called while rows are under way.
  template <class Meanwhile>
  Tensor dispatch(Tape& tape, const Tensor& x, const DispatchRound& round, Meanwhile meanwhile);
  /// A view of the rows of chunk number `chunk`, which have arrived. Call it for each in turn.
  Tensor arrive(Tape& tape, const Tensor& rows, const DispatchRound& round, std::size_t chunk);
  /// What the experts made of them, [chunk's rows, hidden], itself, on its way back.
  Tensor leave(Tape& tape, const Tensor& results, const DispatchRound& round, std::size_t chunk);
  /// Of all chunks, what leave() returned; weights [tokens, k] -> [tokens, hidden], each token's weighted
  /// sum. Differentiable where the plan has one round, for results and weights without another use.
  Tensor combine(Tape& tape, const ChunkRows& results, const Tensor& weights, const DispatchRound& round);

  /// Until nothing is under way to or from the memory of a pass that fails; says nothing of errors.
  void abandon() { under_way_ = {}; }

  // What dispatch and combine are made of, for those who record on their own.

  /// Until all that is under way is there.
  void wait();
  /// y [tokens, hidden] (=, +=) each token's weighted sum of the results, once they are back.
  void combine_into(const ChunkRows& results, const Tensor& weights, const DispatchRound& round,
                    const Tensor& y, Write write);
  /// dresults, which are on their way on return, and the round's part of dweights from dy.
  void combine_backward(const Tensor& dy, const ChunkRows& results, const Tensor& weights,
                        const DispatchRound& round, const ChunkRows& dresults, const Tensor& dweights);
  /// dx (=, +=) from the gradient of the dispatched rows, once it is back.
  void dispatch_backward(const Tensor& drows, const DispatchRound& round, const Tensor& dx, Write write);

  Communicator& group() const { return group_; }
  Index local_experts() const { return experts_ / group_.size(); }

 private:
  Index chunk_rows(const DispatchPlan& plan, Index rank, Index number) const;
  void depart(const Tensor& x, const DispatchRound& round, const Tensor& rows);
  void record_dispatch(Tape& tape, const Tensor& x, const Tensor& rows, const DispatchRound& round);
  void start(std::size_t chunk, const Tensor& send, std::span<const PeerRows> leaving, const Tensor& receive,
             std::span<const PeerRows> arriving);

  Communicator& group_;
  Index experts_;
  double capacity_factor_;
  bool one_round_;
  Index chunks_;
  Index capacity_ = 0;
  std::array<Request, kMostChunks> under_way_;  // of each chunk, the one exchange that may be
};

template <class Meanwhile>
Tensor Dispatcher::dispatch(Tape& tape, const Tensor& x, const DispatchRound& round, Meanwhile meanwhile) {
  const Tensor rows = tape.output({round.rows, x.size(1)}, x.dtype(), {&x});
  depart(x, round, rows);
  // Several chunks are for overlap in the backward pass, too: the last one comes home during what is recorded
  // meanwhile. That adds to dx in another order, and one chunk keeps the bits that it always gave.
  const bool overlaps = round.chunks.size() > 1;
  if (overlaps) record_dispatch(tape, x, rows, round);
  meanwhile();
  if (!overlaps) record_dispatch(tape, x, rows, round);
  return rows;
}

}  // namespace conclave
