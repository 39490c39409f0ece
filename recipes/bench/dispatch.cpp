// Compares dispatching tokens to their experts and back with a plain all-to-all of the same rows.
#include <fmt/format.h>

#include <numeric>
#include <vector>

#include "core/random.h"
#include "parallel/moe/dispatcher.h"
#include "recipes/bench/bench.h"

namespace conclave::bench {

void dispatch(const ProcessGrid& grid, std::int64_t repetitions) {
  constexpr Index kTokens = 8192, kTopK = 2, kHidden = 512;
  Communicator& group = grid.expert_group();
  const Index ranks = group.size(), experts = 4 * ranks;
  Arena arena("dispatch");
  const Tensor x = arena.zeros({kTokens, kHidden}), y = arena.empty({kTokens, kHidden});
  const Tensor chosen = arena.empty({kTokens, kTopK}, DType::i32);
  const Tensor weights = arena.empty({kTokens, kTopK});
  weights.fill(0.5);
  const RandomStream stream{.seed = 1, .tensor = static_cast<std::uint32_t>(group.rank())};
  std::uint64_t drawn = 0;
  for (std::int32_t& expert : chosen.span<std::int32_t>())
    expert = static_cast<std::int32_t>(stream.uniform(drawn++) * static_cast<double>(experts));
  std::vector<Index> counts(static_cast<std::size_t>(experts));
  kernels::count_experts(chosen, counts);

  Arena steps("dispatch steps");
  // Sends all rows to their experts and back, without any computation by the experts.
  const auto there_and_back = [&](Dispatcher& dispatcher) {
    steps.reset();
    Tape tape(steps, false);
    const DispatchPlan plan = dispatcher.plan(tape, counts);
    const DispatchRound round = dispatcher.round(tape, plan, chosen, x, 0);
    const Tensor rows = dispatcher.dispatch(tape, x, round, [] {});
    ChunkRows results;
    for (std::size_t c = 0; c < round.chunks.size(); ++c)
      results[c] = dispatcher.leave(tape, dispatcher.arrive(tape, rows, round, c), round, c);
    dispatcher.combine_into(results, weights, round, y, Write::assign);
  };
  Dispatcher at_once(group, experts, 1.5), halves(group, experts, 1.5, false, 2),
      quarters(group, experts, 1.5, false, 4);
  for (Dispatcher* dispatcher : {&at_once, &halves, &quarters}) there_and_back(*dispatcher);
  steps.seal();

  // The same rows in the layout of a plain all-to-all: contiguous by rank, including the rows that stay on
  // this rank.
  std::vector<Index> send_rows(static_cast<std::size_t>(ranks)), receive_rows(send_rows.size());
  const Index own = at_once.local_experts();
  for (Index e = 0; e < experts; ++e)
    send_rows[static_cast<std::size_t>(e / own)] += counts[static_cast<std::size_t>(e)];
  const std::vector<Index> one_each(send_rows.size(), 1);
  group.all_to_all(Tensor::borrow(send_rows.data(), {ranks}, DType::i64), one_each,
                   Tensor::borrow(receive_rows.data(), {ranks}, DType::i64), one_each);
  const Index received = std::reduce(receive_rows.begin(), receive_rows.end());
  const Tensor here = arena.zeros({kTokens * kTopK, kHidden}), there = arena.zeros({received, kHidden});
  const auto bare = [&] {
    group.all_to_all(here, send_rows, there, receive_rows);
    group.all_to_all(there, receive_rows, here, send_rows);
  };
  const auto together = [&group](const auto& work) {
    return [&group, &work] {
      group.barrier();
      for (int i = 0; i < 8; ++i) work();
      group.barrier();
    };
  };
  const auto once = [&] { there_and_back(at_once); };
  const auto in_halves = [&] { there_and_back(halves); };
  const auto in_quarters = [&] { there_and_back(quarters); };
  const Comparison time = compare(together(once), together(bare), repetitions),
                   two = compare(together(in_halves), together(once), repetitions),
                   four = compare(together(in_quarters), together(once), repetitions);
  const Index stays = send_rows[static_cast<std::size_t>(group.rank())];
  const Index crossing = group.sum(kTokens * kTopK - stays + received - stays);
  if (group.rank() != 0) return;
  const double bytes = 8 * static_cast<double>(crossing * kHidden) * sizeof(float);
  print_figure(fmt::format("dispatch and combine, {} ranks x {} tokens, top {}, hidden {}", ranks, kTokens,
                           kTopK, kHidden),
               fmt::format("{:.2f} GB/s between ranks, {:.0f}% of a bare all-to-all's {:.2f} GB/s",
                           bytes / time.subject / 1e9, 100 * time.ratio, bytes / time.reference / 1e9),
               0.75);
  if (ranks > 1)
    print_figure(
        "the same in chunks, with nothing to compute meanwhile",
        fmt::format("in 2 {:.0f}%, in 4 {:.0f}% as fast as at once", 100 * two.ratio, 100 * four.ratio));
}

}  // namespace conclave::bench
