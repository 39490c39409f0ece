#include "parallel/moe/dispatcher.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace conclave {
namespace {

void clear_padding(const Tensor& rows, const DispatchRound& round) {
  if (round.padding > 0) rows.rows(round.rows - round.padding, round.rows).zero();
}

// The part of a queue's interval [begin, begin + count) that falls into the window [first, first + capacity).
struct Window {
  Index first, capacity;
  std::pair<Index, Index> of(Index begin, Index count) const {
    const Index from = std::max(begin, first), to = std::min(begin + count, first + capacity);
    return from < to ? std::pair{from - begin, to - from} : std::pair{Index{0}, Index{0}};
  }
};

}  // namespace

Dispatcher::Dispatcher(Communicator& group, Index experts, double capacity_factor, bool one_round)
    : group_(group), experts_(experts), capacity_factor_(capacity_factor), one_round_(one_round) {
  require(experts % group.size() == 0, "moe: {} experts do not divide over {} ranks", experts, group.size());
}

DispatchPlan Dispatcher::plan(Tape& tape, std::span<const Index> local) {
  const Index ranks = group_.size();
  DispatchPlan plan;
  plan.counts = tape.arena().array<Index>(ranks * experts_);
  plan.row_count = std::accumulate(local.begin(), local.end(), Index{});
  const Tensor all = Tensor::borrow(plan.counts.data(), {ranks, experts_}, DType::i64);
  const auto mine = tape.arena().copy(local);
  group_.all_gather(Tensor::borrow(mine.data(), {experts_}, DType::i64), all);

  if (ranks == 1) {  // a rank's own rows always fit: they have the size of its own batch
    plan.capacity = std::max<Index>(plan.row_count, 1);
    return plan;
  }
  Index most = 0, largest_share = 0;
  for (Index rank = 0; rank < ranks; ++rank) {
    Index due = 0, share = 0;
    for (Index source = 0; source < ranks; ++source)
      for (Index e = 0; e < local_experts(); ++e)
        due += plan.counts[static_cast<std::size_t>(source * experts_ + rank * local_experts() + e)];
    for (Index e = 0; e < experts_; ++e) share += plan.counts[static_cast<std::size_t>(rank * experts_ + e)];
    most = std::max(most, due);
    largest_share = std::max(largest_share, share);
  }
  if (tape.planning()) {
    const auto wanted =
        one_round_ ? std::accumulate(plan.counts.begin(), plan.counts.end(), Index{})
                   : static_cast<Index>(std::ceil(capacity_factor_ * static_cast<double>(largest_share)));
    capacity_ = std::max({capacity_, wanted, Index{1}});
  }
  require(capacity_ > 0,
          "moe: the dispatcher was given no capacity; run a planning pass or call set_capacity");
  plan.capacity = capacity_;
  plan.rounds = std::max<Index>((most + capacity_ - 1) / capacity_, 1);
  require(
      plan.rounds == 1 || !one_round_,
      "moe: {} rows are due on one rank, which has room for {}; experts that want sequences need them all at "
      "once",
      most, capacity_);
  plan.padded = tape.planning();
  return plan;
}

DispatchRound Dispatcher::round(Tape& tape, const DispatchPlan& plan, const Tensor& chosen, const Tensor& x,
                                Index number) const {
  const Index ranks = group_.size(), own = local_experts(), me = group_.rank();
  const auto count = [&](Index source, Index expert) {
    return plan.counts[static_cast<std::size_t>(source * experts_ + expert)];
  };
  const Window window{number * plan.capacity, plan.capacity};
  DispatchRound round;
  round.slots = tape.empty(chosen.shape(), DType::i32);
  round.leaving = tape.arena().array<PeerRows>(experts_ - own);
  round.arriving = tape.arena().array<PeerRows>((ranks - 1) * own);
  round.offsets = tape.arena().array<Index>(own + 1);
  const auto ranges = tape.arena().array<kernels::SlotRange>(experts_);

  // What this rank sends, by expert; of each, the part that the destination's queue has in this round.
  std::size_t blocks = 0;
  Index leaving = 0;
  for (Index rank = 0; rank < ranks; ++rank) {
    Index queue = 0;
    for (Index expert = rank * own; expert < (rank + 1) * own; ++expert) {
      for (Index source = 0; source < ranks; ++source) {
        const auto [skip, rows] = window.of(queue, count(source, expert));
        queue += count(source, expert);
        if (source != me) continue;
        ranges[static_cast<std::size_t>(expert)] = {skip, rows, leaving};
        if (rank == me) continue;
        round.leaving[blocks++] = {static_cast<int>(rank), leaving, rows};
        leaving += rows;
      }
    }
  }
  round.away = tape.empty({plan.padded ? plan.row_count : leaving, x.size(1)}, x.dtype());

  // What its experts compute, by expert and source.
  blocks = 0;
  Index queue = 0;
  for (Index e = 0; e < own; ++e) {
    for (Index source = 0; source < ranks; ++source) {
      const Index due = count(source, me * own + e);
      const Index rows = window.of(queue, due).second;
      queue += due;
      if (source == me)
        ranges[static_cast<std::size_t>(me * own + e)].first = round.away.size(0) + round.rows;
      else
        round.arriving[blocks++] = {static_cast<int>(source), round.rows, rows};
      round.rows += rows;
    }
    round.offsets[static_cast<std::size_t>(e) + 1] = round.rows;
  }
  if (plan.padded) round.padding = plan.capacity - round.rows;
  round.rows += round.padding;
  round.offsets.back() = round.rows;
  kernels::assign_slots(chosen, ranges, round.slots);
  return round;
}

void Dispatcher::exchange_sequences(Tape& tape, const DispatchPlan& plan, const Tensor& offsets,
                                    DispatchRound& round) const {
  const Index sequences = kernels::expect_offsets("moe", offsets, round.slots.size(0));
  const Tensor away = tape.arena().empty_on_host({round.away.size(0), 1}, DType::i32),
               here = tape.arena().empty_on_host({round.rows, 1}, DType::i32);
  auto *leaving = away.data<std::int32_t>(), *staying = here.data<std::int32_t>();
  // A row's sequence, by its number on the rank that sends it.
  const auto bounds = offsets.span<std::int32_t>();
  const Tensor slots = tape.on_host(round.slots);
  const auto* slot = slots.data<std::int32_t>();
  for (std::int32_t s = 0; s < sequences; ++s) {
    const auto tokens = bounds[static_cast<std::size_t>(s) + 1] - bounds[static_cast<std::size_t>(s)];
    for (Index i = 0; i < tokens * slots.size(1); ++i, ++slot)
      if (*slot >= 0) (*slot < away.size(0) ? leaving[*slot] : staying[*slot - away.size(0)]) = s;
  }
  group_.start_exchange(away, round.leaving, here, round.arriving).wait();

  round.sequences = tape.arena().array<Index>(round.rows + 1);
  std::size_t runs = 0;
  Index row = 0;
  for (Index e = 0; e < local_experts(); ++e)
    for (Index source = 0; source < group_.size(); ++source) {
      const Index expert = group_.rank() * local_experts() + e, begin = row;
      for (Index left = plan.counts[static_cast<std::size_t>(source * experts_ + expert)]; left > 0;
           --left, ++row)
        if (row == begin || staying[row] != staying[row - 1]) round.sequences[runs++] = row;
    }
  while (row < round.rows) round.sequences[runs++] = row++;
  round.sequences[runs] = row;
  round.sequences = round.sequences.first(runs + 1);
}

Request Dispatcher::depart(const Tensor& x, const DispatchRound& round, const Tensor& rows) {
  kernels::gather_rows(x, round.slots, std::array{round.away, rows});
  clear_padding(rows, round);
  return group_.start_exchange(round.away, round.leaving, rows, round.arriving);
}

void Dispatcher::record_dispatch(Tape& tape, const Tensor& x, const Tensor& rows,
                                 const DispatchRound& round) {
  tape.record("dispatch", {&x}, {&rows}, [this, x, rows, round](Tape& tape) {
    const auto [dx, write] = tape.into(x);
    dispatch_backward(tape, tape.gradient(rows), round, dx, write);
    // A pass in rounds keeps a copy of a gradient that one in a single round, as planned, does not.
    if (tape.planning()) tape.empty(rows.shape(), rows.dtype());
  });
}

Tensor Dispatcher::combine(Tape& tape, const Tensor& rows, const Tensor& weights,
                           const DispatchRound& round) {
  Tensor y = tape.output({weights.size(0), rows.size(1)}, rows.dtype(), {&rows, &weights});
  combine_into(rows, weights, round, round.away, y, Write::assign);
  tape.record("combine", {&rows, &weights}, {&y}, [this, y, rows, weights, round](Tape& tape) {
    // Both gradients come from one pass over the rows. These tensors have one use each, so it assigns.
    const auto target = [&](const Tensor& input) {
      if (!input.slot) return GradientTarget{tape.empty(input.shape(), input.dtype()), Write::assign};
      return tape.into(input);
    };
    const auto drows = target(rows), dweights = target(weights);
    require(drows.write == Write::assign && dweights.write == Write::assign,
            "combine: its rows and weights must have no other use");
    combine_backward(tape, tape.gradient(y), rows, weights, round, drows.gradient, dweights.gradient);
  });
  return y;
}

void Dispatcher::bring_back(const Tensor& rows, const DispatchRound& round, const Tensor& away) {
  group_.start_exchange(rows, round.arriving, away, round.leaving).wait();
}

void Dispatcher::combine_into(const Tensor& rows, const Tensor& weights, const DispatchRound& round,
                              const Tensor& away, const Tensor& y, Write write) {
  bring_back(rows, round, away);
  kernels::combine_rows(std::array{away, rows}, round.slots, weights, y, write);
}

void Dispatcher::dispatch_backward(Tape& tape, const Tensor& drows, const DispatchRound& round,
                                   const Tensor& dx, Write write) {
  const ArenaScope scope(tape.arena());
  combine_into(drows, Tensor(), round, tape.empty(round.away.shape(), drows.dtype()), dx, write);
}

void Dispatcher::combine_backward(Tape& tape, const Tensor& dy, const Tensor& rows, const Tensor& weights,
                                  const DispatchRound& round, const Tensor& drows, const Tensor& dweights) {
  const ArenaScope scope(tape.arena());
  const Tensor daway = tape.empty(round.away.shape(), dy.dtype());
  kernels::combine_rows_backward(dy, std::array{round.away, rows}, round.slots, weights,
                                 std::array{daway, drows}, dweights);
  clear_padding(drows, round);
  group_.start_exchange(daway, round.leaving, drows, round.arriving).wait();
}

}  // namespace conclave
