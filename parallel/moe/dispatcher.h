// Moves the rows of tokens to the ranks that hold their experts, and the experts' results back. No row is
// dropped.
//
// Vocabulary:
//   row    one token's hidden vector on its way to one expert; a token that goes to k experts has k rows.
//   plan   how many rows every rank sends to every expert in one forward pass; all ranks know all counts.
//   queue  the rows due on one rank, ordered by (local expert, source rank, order at the source).
//   round  what a rank receives at a time: round t takes rows [t capacity, (t + 1) capacity) of each queue.
//          Normally one round is enough. If skewed routing makes more than `capacity` rows due on some rank,
//          all ranks of the group go through further rounds, so that no rank needs more memory than planned.
//          Every rank derives the same rounds from the counts, without further communication.
//   chunk  a part of a round that is sent, computed and sent back on its own, so that some rows travel
//          while others are computed: ceil(rows / chunks) consecutive rows of a rank's queue of the round.
//   away   this rank's rows of a round for experts on other ranks. They are sent from here, and their
//          results come back to the same places.
//   slots  where rows are in a round: rows of `away` are numbered first, then the rows of the local experts.
//          slots [tokens, k] has the number of each choice of a token; -1: the row is not in this round.
//
// Example: 2 ranks, 4 experts (0 and 1 on rank 0, 2 and 3 on rank 1), one expert for each token, capacity 3,
// 2 chunks. Tokens a, b, c, d of rank 0 chose experts 0, 2, 1, 0; tokens e, f, g of rank 1 chose 0, 3, 0.
//
//                       rank 0               rank 1
//     plan.counts       2 1 1 0              2 0 0 1
//     plan.due          5                    2           5 > capacity: ceil(5 / 3) = 2 rounds
//     queue             a d e g c            b f
//     round 0, rows     a d e                b f
//              chunks   (a d) (e)            (b) (f)     ceil(3 / 2) = 2 rows each, and ceil(2 / 2) = 1
//              away     b                    e
//              slots    a 1, b 0, c -1, d 2  e 0, f 2, g -1
//     round 1, rows     g c                  none
//
// On rank 0, slot 0 is `b` in `away`; slots 1 to 3 are the rows that its experts compute: a and d, written in
// place, and e, which arrives from rank 1. c and g follow in round 1.
//
// No row is copied more often than necessary. dispatch() writes each row once: to `away`, or, for an expert
// of this rank, directly where the expert reads it. Rows from other ranks are received where the expert reads
// them. The gradient of dispatch is a combine, and the gradient of combine is a dispatch (DeepSeek-AI 2024,
// section 3.2).
//
// Order of calls in the forward pass: dispatch() gathers all rows and starts sending every chunk. Then, for
// one chunk after the other while later chunks are under way: arrive() waits for the chunk's rows, the
// experts compute them, and leave() starts sending the results back. combine() waits for all results and adds
// them up.
//
// The backward pass mirrors this. The node of combine computes the gradients of all results and starts
// sending them, last chunk first. The node of leave waits for a chunk's gradients. The node of arrive sends
// the gradients of the chunk's rows back to the ranks that the rows came from. The node of dispatch waits for
// all of these. Each transfer reuses the places in `away` (results, then gradients of results, then gradients
// of rows), so a recording can be walked only once.
#pragma once

#include <array>
#include <cstddef>
#include <span>

#include "autograd/tape.h"
#include "core/kernels/permutation.h"
#include "parallel/communicator.h"

namespace conclave {

/// How many rows every rank sends to every expert in one forward pass. Its spans live in the tape's arena.
struct DispatchPlan {
  std::span<Index> counts;  ///< [ranks, experts]: rows that rank r sends to expert e
  std::span<Index> due;     ///< [ranks]: rows for the experts of rank r, over all rounds
  Index capacity = 0;
  Index rounds = 1;
  bool padded = false;  ///< set in a planning pass: every round then has as many rows as fit, on every rank
  Index row_count = 0;  ///< rows this rank's tokens have, over all rounds and destinations
};

constexpr std::size_t kMostChunks = kernels::kMostRowParts - 1;

/// One tensor for each chunk of a round; elements beyond the last chunk are undefined.
using ChunkRows = std::array<Tensor, kMostChunks>;

/// Consecutive rows of those that this rank's experts compute in a round.
struct DispatchChunk {
  Index first = 0, rows = 0;     ///< first row of the chunk among the round's rows, and number of rows
  Index padding = 0;             ///< rows of zeros after those of the last expert; only in planning passes
  std::span<PeerRows> leaving;   ///< blocks of `away` to send
  std::span<PeerRows> arriving;  ///< where rows from other ranks go, relative to the chunk's first row
  std::span<Index> offsets;      ///< [local experts + 1], within the chunk's rows; an expert may have none
};

/// One round of a plan from this rank's point of view.
struct DispatchRound {
  Tensor slots;  ///< [tokens, k] i32: row of each choice, counting `away` first; -1: not in this round
  Tensor away;   ///< [n, hidden]: rows for other ranks' experts; results and gradients come back here
  std::span<DispatchChunk> chunks;
  std::span<Index> sequences;  ///< [runs + 1], offsets within the experts' rows; see exchange_sequences
  std::span<Index> examples;   ///< [runs], the example that each run belongs to; see exchange_sequences
  Index rows = 0;              ///< rows that this rank's experts compute, over all chunks
};

class Dispatcher {
 public:
  /// `group`: the ranks that share the experts; each of them holds experts / group.size() consecutive ones.
  /// `capacity_factor`: the planned capacity is this factor times the largest number of rows that any rank
  /// sends. `one_round`: plan enough capacity for the rows of all ranks, whatever the factor, in one round of
  /// one chunk. `chunks`: number per round, at most kMostChunks; 0 selects two on CUDA devices and one
  /// elsewhere. A group of one rank sends nothing and always has one chunk. Throws Error if experts do not
  /// divide evenly over the ranks.
  Dispatcher(Communicator& group, Index experts, double capacity_factor, bool one_round = false,
             Index chunks = 1);

  /// Rows that a rank may receive per round. Planning passes raise it to what the largest of them needs;
  /// tests set it by hand.
  Index capacity() const { return capacity_; }
  void set_capacity(Index rows) { capacity_ = rows; }
  Index chunks() const { return chunks_; }

  /// Collective. `local` [experts]: how many rows this rank's tokens have for each expert. Throws Error if
  /// the capacity is not set, or if one_round is set and the rows due exceed the capacity.
  DispatchPlan plan(Tape& tape, std::span<const Index> local);
  /// Lays out round `number` of the plan. chosen [tokens, k] i32: the tokens' experts, -1 for none; x
  /// [tokens, hidden]: the tensor that will be dispatched, of which only shape and dtype are read.
  DispatchRound round(Tape& tape, const DispatchPlan& plan, const Tensor& chosen, const Tensor& x,
                      Index number) const;

  /// Collective, for a plan of one round in one chunk. Fills round.sequences: a run is a group of consecutive
  /// rows of the same sequence and the same expert. offsets [sequences + 1] i32, in host memory, divide this
  /// rank's tokens into sequences. Each row of padding is a run of its own. If the tape tells examples apart,
  /// round.examples gets the example of each run.
  void exchange_sequences(Tape& tape, const DispatchPlan& plan, const Tensor& offsets,
                          DispatchRound& round) const;

  /// x [tokens, hidden] -> [round.rows, hidden]. Rows arrive in the result chunk by chunk, sorted by expert
  /// within a chunk. `meanwhile` is called while rows are under way. Differentiable if the plan has one
  /// round.
  template <class Meanwhile>
  Tensor dispatch(Tape& tape, const Tensor& x, const DispatchRound& round, Meanwhile meanwhile);
  /// Waits for chunk number `chunk` and returns a view of its rows. Call it for each chunk in order.
  Tensor arrive(Tape& tape, const Tensor& rows, const DispatchRound& round, std::size_t chunk);
  /// Starts sending back `results` [chunk's rows, hidden], the experts' output for the chunk. Returns the
  /// same elements, to be passed to combine().
  Tensor leave(Tape& tape, const Tensor& results, const DispatchRound& round, std::size_t chunk);
  /// results: for each chunk what leave() returned; weights [tokens, k] -> [tokens, hidden], the weighted sum
  /// of each token's results. Differentiable if the plan has one round and neither results nor weights have
  /// another use.
  Tensor combine(Tape& tape, const ChunkRows& results, const Tensor& weights, const DispatchRound& round);

  /// Waits for all exchanges and ignores their errors. For a pass that fails: its memory must not be released
  /// while messages still read or write it.
  void abandon() { under_way_ = {}; }

  // The parts of dispatch and combine, for callers that record their own nodes.

  /// Waits for all exchanges that were started.
  void wait();
  /// Waits for the results; then y [tokens, hidden] (=, +=) the weighted sum of each token's results.
  void combine_into(const ChunkRows& results, const Tensor& weights, const DispatchRound& round,
                    const Tensor& y, Write write);
  /// From dy, computes the gradients of the results and starts sending them (they arrive in dresults), and
  /// writes this round's choices' part of dweights.
  void combine_backward(const Tensor& dy, const ChunkRows& results, const Tensor& weights,
                        const DispatchRound& round, const ChunkRows& dresults, const Tensor& dweights);
  /// Waits for the gradients of the dispatched rows; then dx (=, +=) the sum of each token's.
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
  std::array<Request, kMostChunks> under_way_;  // by chunk: at most one exchange at a time
};

template <class Meanwhile>
Tensor Dispatcher::dispatch(Tape& tape, const Tensor& x, const DispatchRound& round, Meanwhile meanwhile) {
  const Tensor rows = tape.output({round.rows, x.size(1)}, x.dtype(), {&x});
  depart(x, round, rows);
  // With several chunks, record dispatch before `meanwhile`: in the backward pass, the nodes recorded by
  // `meanwhile` then run while the last chunk's gradients still travel. This order adds to dx differently, so
  // results differ in the last bits; with one chunk there is nothing to overlap, and the order stays as it
  // is.
  const bool overlaps = round.chunks.size() > 1;
  if (overlaps) record_dispatch(tape, x, rows, round);
  meanwhile();
  if (!overlaps) record_dispatch(tape, x, rows, round);
  return rows;
}

}  // namespace conclave
