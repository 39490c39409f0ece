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
#pragma once

#include <span>

#include "autograd/tape.h"
#include "core/kernels/permutation.h"
#include "parallel/communicator.h"

namespace conclave {

/// Who sends how much to whom, for one forward pass; lives in the tape's arena.
struct DispatchPlan {
  std::span<Index> counts;  ///< [ranks, experts]: rows of rank r for expert e
  Index capacity = 0;
  Index rounds = 1;
  bool padded = false;  ///< while memory is being planned: every round is full on every rank
  Index row_count = 0;  ///< rows this rank sends, over all rounds
};

/// One round of a plan from this rank's point of view.
struct DispatchRound {
  Tensor slots;  ///< [tokens, k] i32: the row, in `away` and then the experts', of a token's choice; -1: none
  Tensor away;   ///< [n, hidden]: rows that go to other ranks' experts, and later what comes back for them
  std::span<PeerRows> leaving;   ///< blocks of `away`
  std::span<PeerRows> arriving;  ///< blocks of the experts' rows
  std::span<Index> offsets;      ///< [local experts + 1] of the experts' rows
  std::span<Index> sequences;    ///< [runs + 1] of the experts' rows; see exchange_sequences
  Index rows = 0;                ///< the experts' rows, with
  Index padding = 0;             ///< rows of zeros behind the last expert's
};

class Dispatcher {
 public:
  /// `group`: the ranks that share the experts, `experts` in all; each holds experts / group.size()
  /// consecutive ones. `one_round`: the capacity planned is all ranks' rows, whatever the factor.
  Dispatcher(Communicator& group, Index experts, double capacity_factor, bool one_round = false);

  /// Rows a rank may receive per round; set by the largest planning pass, or by hand (tests).
  Index capacity() const { return capacity_; }
  void set_capacity(Index rows) { capacity_ = rows; }

  /// Collective. `local` [experts]: how often this rank's tokens chose each expert.
  DispatchPlan plan(Tape& tape, std::span<const Index> local);
  /// chosen [tokens, k] i32: the tokens' experts; x [tokens, hidden] is what will be dispatched.
  DispatchRound round(Tape& tape, const DispatchPlan& plan, const Tensor& chosen, const Tensor& x,
                      Index number) const;

  /// Collective, for a plan of one round. Fills round.sequences: runs of rows that are of one sequence and
  /// one expert, given the offsets [sequences + 1] i32, in host memory, of this rank's tokens. Rows of
  /// padding are a run each.
  void exchange_sequences(Tape& tape, const DispatchPlan& plan, const Tensor& offsets,
                          DispatchRound& round) const;

  /// x [tokens, hidden] -> the round's rows on this rank, sorted by expert: [round.rows, hidden].
  /// Differentiable where the plan has one round. `meanwhile` is called while rows are under way.
  template <class Meanwhile>
  Tensor dispatch(Tape& tape, const Tensor& x, const DispatchRound& round, Meanwhile meanwhile);
  /// The way back: rows [round.rows, hidden], weights [tokens, k] -> [tokens, hidden], each token's weighted
  /// sum. Differentiable where the plan has one round, for rows and weights without another use.
  Tensor combine(Tape& tape, const Tensor& rows, const Tensor& weights, const DispatchRound& round);

  // What the two are made of, for those who record on their own.

  /// rows -> the ranks they came from, there in `away`, which is like round.away.
  void bring_back(const Tensor& rows, const DispatchRound& round, const Tensor& away);
  /// y [tokens, hidden] (=, +=) each token's weighted sum of the rows brought back; undefined weights mean 1.
  void combine_into(const Tensor& rows, const Tensor& weights, const DispatchRound& round, const Tensor& away,
                    const Tensor& y, Write write);
  /// dx (=, +=) from the gradient of the dispatched rows.
  void dispatch_backward(Tape& tape, const Tensor& drows, const DispatchRound& round, const Tensor& dx,
                         Write write);
  /// drows and the round's part of dweights from dy, for `rows` whose others are in round.away.
  void combine_backward(Tape& tape, const Tensor& dy, const Tensor& rows, const Tensor& weights,
                        const DispatchRound& round, const Tensor& drows, const Tensor& dweights);

  Communicator& group() const { return group_; }
  Index local_experts() const { return experts_ / group_.size(); }

 private:
  Request depart(const Tensor& x, const DispatchRound& round, const Tensor& rows);
  void record_dispatch(Tape& tape, const Tensor& x, const Tensor& rows, const DispatchRound& round);

  Communicator& group_;
  Index experts_;
  double capacity_factor_;
  bool one_round_;
  Index capacity_ = 0;
};

template <class Meanwhile>
Tensor Dispatcher::dispatch(Tape& tape, const Tensor& x, const DispatchRound& round, Meanwhile meanwhile) {
  const Tensor rows = tape.output({round.rows, x.size(1)}, x.dtype(), {&x});
  Request arrival = depart(x, round, rows);
  meanwhile();
  arrival.wait();
  record_dispatch(tape, x, rows, round);
  return rows;
}

}  // namespace conclave
