#include "parallel/moe/dispatcher.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

namespace conclave {
namespace {

// Zeroes the padding at the end of a chunk's rows, which only planning passes have.
void clear_padding(const Tensor& rows, const DispatchChunk& chunk) {
  if (chunk.padding > 0) rows.rows(chunk.rows - chunk.padding, chunk.rows).zero();
}

Tensor of_chunk(const Tensor& rows, const DispatchChunk& chunk) {
  return rows.rows(chunk.first, chunk.first + chunk.rows);
}

// `away` and then the chunks' rows, in the order in which slots number them.
class Parts {
 public:
  Parts(const DispatchRound& round, const ChunkRows& rows) : count_(1 + round.chunks.size()) {
    parts_.front() = round.away;
    std::ranges::copy(rows, parts_.begin() + 1);
  }
  operator kernels::RowParts() const { return kernels::RowParts(parts_).first(count_); }

 private:
  std::array<Tensor, kernels::kMostRowParts> parts_;
  std::size_t count_;
};

// A window [first, first + capacity) of a queue; of() intersects it with the queue's interval [begin, begin +
// count).
struct Window {
  Index first, capacity;
  // Part number `number` of this window, cut into parts of `rows` rows; the last parts may have fewer rows or
  // none.
  Window part(std::size_t number, Index rows) const {
    const Index skip = static_cast<Index>(number) * rows;
    return {first + skip, std::clamp<Index>(capacity - skip, 0, rows)};
  }
  std::pair<Index, Index> of(Index begin, Index count) const {
    const Index from = std::max(begin, first), to = std::min(begin + count, first + capacity);
    return from < to ? std::pair{from - begin, to - from} : std::pair{Index{0}, Index{0}};
  }
};

}  // namespace

Dispatcher::Dispatcher(Communicator& group, Index experts, double capacity_factor, bool one_round,
                       Index chunks)
    : group_(group),
      experts_(experts),
      capacity_factor_(capacity_factor),
      one_round_(one_round),
      chunks_(chunks) {
  if (chunks == 0) chunks_ = group.device() == Device::cpu ? 1 : 2;
  if (one_round || group.size() == 1) chunks_ = 1;
  require(chunks >= 0 && chunks <= static_cast<Index>(kMostChunks),
          "moe: {} chunks of a round, expected 0 to {}", chunks, kMostChunks);
  require(experts % group.size() == 0, "moe: {} experts do not divide over {} ranks", experts, group.size());
}

DispatchPlan Dispatcher::plan(Tape& tape, std::span<const Index> local) {
  const Index ranks = group_.size();
  DispatchPlan plan;
  plan.counts = tape.arena().array<Index>(ranks * experts_);
  plan.due = tape.arena().array<Index>(ranks);
  plan.row_count = std::accumulate(local.begin(), local.end(), Index{});
  const Tensor all = Tensor::borrow(plan.counts.data(), {ranks, experts_}, DType::i64);
  const auto mine = tape.arena().copy(local);
  group_.all_gather(Tensor::borrow(mine.data(), {experts_}, DType::i64), all);

  for (std::size_t i = 0; i < plan.counts.size(); ++i) {
    const Index expert = static_cast<Index>(i) % experts_;
    plan.due[static_cast<std::size_t>(expert / local_experts())] += plan.counts[i];
  }
  if (ranks == 1) {  // a single rank receives exactly its own rows, for which there is always room
    plan.capacity = std::max<Index>(plan.row_count, 1);
    return plan;
  }
  const Index most = std::ranges::max(plan.due);
  Index largest_share = 0;
  for (auto left = plan.counts; !left.empty(); left = left.subspan(local.size())) {
    const auto share = left.first(local.size());
    largest_share = std::max(largest_share, std::accumulate(share.begin(), share.end(), Index{}));
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
      "once, as do examples that are told apart",
      most, capacity_);
  plan.padded = tape.planning();
  return plan;
}

// Rows per chunk of round `number` on `rank`; the last chunks may have fewer. In planning passes every chunk
// has as many rows as it ever can.
Index Dispatcher::chunk_rows(const DispatchPlan& plan, Index rank, Index number) const {
  const Index left = plan.due[static_cast<std::size_t>(rank)] - number * plan.capacity,
              rows = plan.padded ? plan.capacity : std::clamp<Index>(left, 0, plan.capacity);
  return (rows + chunks_ - 1) / chunks_;
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
  round.chunks = tape.arena().array<DispatchChunk>(chunks_);
  for (DispatchChunk& chunk : round.chunks) {
    chunk.leaving = tape.arena().array<PeerRows>(experts_ - own);
    chunk.arriving = tape.arena().array<PeerRows>((ranks - 1) * own);
    chunk.offsets = tape.arena().array<Index>(own + 1);
  }
  const auto ranges = tape.arena().array<kernels::SlotRange>(experts_);

  // What this rank sends, by expert: the part of its rows that is within this round of the destination's
  // queue.
  std::size_t block = 0;
  Index leaving = 0;
  for (Index rank = 0; rank < ranks; ++rank) {
    Index queue = 0;
    const Index each = chunk_rows(plan, rank, number);
    for (Index expert = rank * own; expert < (rank + 1) * own; ++expert) {
      for (Index source = 0; source < ranks; ++source) {
        const Index begin = queue, due = count(source, expert);
        queue += due;
        if (source != me) continue;
        const auto [skip, rows] = window.of(begin, due);
        ranges[static_cast<std::size_t>(expert)] = {skip, rows, leaving};
        if (rank == me) continue;
        for (std::size_t c = 0; c < round.chunks.size(); ++c) {
          const Index part = window.part(c, each).of(begin, due).second;
          round.chunks[c].leaving[block] = {static_cast<int>(rank), leaving, part};
          leaving += part;
        }
        ++block;
      }
    }
  }
  round.away = tape.empty({plan.padded ? plan.row_count : leaving, x.size(1)}, x.dtype());

  // What this rank's experts compute, by expert and source rank.
  block = 0;
  Index queue = 0;
  const Index each = chunk_rows(plan, me, number);
  for (Index e = 0; e < own; ++e) {
    for (Index source = 0; source < ranks; ++source) {
      const Index begin = queue, due = count(source, me * own + e);
      queue += due;
      if (source == me)
        ranges[static_cast<std::size_t>(me * own + e)].first = round.away.size(0) + round.rows;
      for (std::size_t c = 0; c < round.chunks.size(); ++c) {
        DispatchChunk& chunk = round.chunks[c];
        const Index rows = window.part(c, each).of(begin, due).second;
        if (source != me) chunk.arriving[block] = {static_cast<int>(source), chunk.rows, rows};
        chunk.rows += rows;
        round.rows += rows;
      }
      if (source != me) ++block;
    }
    for (DispatchChunk& chunk : round.chunks) chunk.offsets[static_cast<std::size_t>(e) + 1] = chunk.rows;
  }
  round.rows = 0;
  for (DispatchChunk& chunk : round.chunks) {
    if (plan.padded) chunk.padding = each - chunk.rows;
    chunk.rows += chunk.padding;
    chunk.offsets.back() = chunk.rows;
    chunk.first = std::exchange(round.rows, round.rows + chunk.rows);
  }
  kernels::assign_slots(chosen, ranges, round.slots);
  return round;
}

void Dispatcher::exchange_sequences(Tape& tape, const DispatchPlan& plan, const Tensor& offsets,
                                    DispatchRound& round) const {
  const Index sequences = kernels::expect_offsets("moe", offsets, round.slots.size(0));
  const Tensor away = tape.arena().empty_on_host({round.away.size(0), 1}, DType::i32),
               here = tape.arena().empty_on_host({round.rows, 1}, DType::i32);
  auto *leaving = away.data<std::int32_t>(), *staying = here.data<std::int32_t>();
  // Each row carries the number of its sequence: its number on the sending rank, or, if examples are told
  // apart, its number among the examples of all ranks.
  const ExampleGradients* const apart = tape.example_gradients();
  const auto first = static_cast<std::int32_t>(apart ? apart->first() : 0);
  const auto bounds = offsets.span<std::int32_t>();
  const Tensor slots = tape.on_host(round.slots);
  const auto* slot = slots.data<std::int32_t>();
  for (std::int32_t s = 0; s < sequences; ++s) {
    const auto tokens = bounds[static_cast<std::size_t>(s) + 1] - bounds[static_cast<std::size_t>(s)];
    for (Index i = 0; i < tokens * slots.size(1); ++i, ++slot)
      if (*slot >= 0) (*slot < away.size(0) ? leaving[*slot] : staying[*slot - away.size(0)]) = first + s;
  }
  group_.start_exchange(away, round.chunks.front().leaving, here, round.chunks.front().arriving).wait();

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
  if (!apart) return;
  round.examples = tape.arena().array<Index>(round.rows).first(runs);
  const Index padded = round.chunks.front().padding;  // rows of zeros; any example will do
  for (std::size_t run = 0; run < runs; ++run)
    round.examples[run] = round.sequences[run] < round.rows - padded ? staying[round.sequences[run]] : 0;
}

void Dispatcher::start(std::size_t chunk, const Tensor& send, std::span<const PeerRows> leaving,
                       const Tensor& receive, std::span<const PeerRows> arriving) {
  under_way_[chunk].wait();
  under_way_[chunk] = group_.start_exchange(send, leaving, receive, arriving);
}

void Dispatcher::wait() {
  for (Request& request : under_way_) request.wait();
}

void Dispatcher::depart(const Tensor& x, const DispatchRound& round, const Tensor& rows) {
  kernels::gather_rows(x, round.slots, std::array{round.away, rows});
  for (std::size_t c = 0; c < round.chunks.size(); ++c) {
    const DispatchChunk& chunk = round.chunks[c];
    const Tensor here = of_chunk(rows, chunk);
    clear_padding(here, chunk);
    start(c, round.away, chunk.leaving, here, chunk.arriving);
  }
}

void Dispatcher::record_dispatch(Tape& tape, const Tensor& x, const Tensor& rows,
                                 const DispatchRound& round) {
  tape.record("dispatch", {&x}, {&rows}, [this, x, rows, round](Tape& tape) {
    const auto [dx, write] = tape.into(x);
    dispatch_backward(tape.gradient(rows), round, dx, write);
  });
}

Tensor Dispatcher::arrive(Tape& tape, const Tensor& rows, const DispatchRound& round, std::size_t number) {
  under_way_[number].wait();
  const DispatchChunk& chunk = round.chunks[number];
  const Tensor arrived = tape.range(rows, chunk.first, chunk.first + chunk.rows);
  tape.record("arrive", {&rows}, {&arrived}, [this, arrived, away = round.away, chunk, number](Tape& tape) {
    start(number, tape.gradient(arrived), chunk.arriving, away, chunk.leaving);
  });
  return arrived;
}

Tensor Dispatcher::leave(Tape& tape, const Tensor& results, const DispatchRound& round, std::size_t number) {
  const DispatchChunk& chunk = round.chunks[number];
  start(number, results, chunk.arriving, round.away, chunk.leaving);
  const Tensor left = tape.tap(results);
  tape.record("leave", {&results}, {&left}, [this, results, left, number](Tape& tape) {
    under_way_[number].wait();
    tape.pass_gradient(tape.gradient(left), results);
    // A pass in several rounds copies this gradient, and a pass in one round does not. Planning reserves the
    // memory.
    if (tape.planning()) tape.empty(results.shape(), results.dtype());
  });
  return left;
}

Tensor Dispatcher::combine(Tape& tape, const ChunkRows& results, const Tensor& weights,
                           const DispatchRound& round) {
  std::array<const Tensor*, kMostChunks + 1> inputs{&weights};
  const std::size_t chunks = round.chunks.size();
  for (std::size_t c = 0; c < chunks; ++c) inputs[c + 1] = &results[c];
  const auto given = std::span(inputs).first(chunks + 1);
  Tensor y = tape.output({weights.size(0), results[0].size(1)}, weights.dtype(), given);
  combine_into(results, weights, round, y, Write::assign);
  tape.record("combine", given, {&y}, [this, y, results, weights, round, walked = false](Tape& tape) mutable {
    require(!std::exchange(walked, true), "combine: its recording can be walked only once");
    // One kernel computes all these gradients and assigns them, so none may have an earlier contribution.
    const auto target = [&](const Tensor& input) {
      if (!input.slot) return tape.empty(input.shape(), input.dtype());
      const auto [gradient, write] = tape.into(input);
      require(write == Write::assign, "combine: its rows and weights must have no other use");
      return gradient;
    };
    ChunkRows dresults;
    for (std::size_t c = 0; c < round.chunks.size(); ++c) dresults[c] = target(results[c]);
    combine_backward(tape.gradient(y), results, weights, round, dresults, target(weights));
  });
  return y;
}

void Dispatcher::combine_into(const ChunkRows& results, const Tensor& weights, const DispatchRound& round,
                              const Tensor& y, Write write) {
  wait();
  kernels::combine_rows(Parts(round, results), round.slots, weights, y, write);
}

void Dispatcher::combine_backward(const Tensor& dy, const ChunkRows& results, const Tensor& weights,
                                  const DispatchRound& round, const ChunkRows& dresults,
                                  const Tensor& dweights) {
  wait();
  kernels::combine_rows_backward(dy, Parts(round, results), round.slots, weights, Parts(round, dresults),
                                 dweights);
  for (std::size_t c = round.chunks.size(); c-- > 0;) {
    const DispatchChunk& chunk = round.chunks[c];
    clear_padding(dresults[c], chunk);
    start(c, round.away, chunk.leaving, dresults[c], chunk.arriving);
  }
}

void Dispatcher::dispatch_backward(const Tensor& drows, const DispatchRound& round, const Tensor& dx,
                                   Write write) {
  wait();
  kernels::combine_rows(std::array{round.away, drows}, round.slots, Tensor(), dx, write);
}

}  // namespace conclave
