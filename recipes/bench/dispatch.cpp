// Tokens to their experts and back, against a bare all-to-all of the same rows.
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

  Dispatcher dispatcher(group, experts, 1.5);
  Arena steps("dispatch steps");
  const auto there_and_back = [&] {
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
  there_and_back();
  steps.seal();

  // The same rows, as a bare all-to-all is given them: one behind the other, those that stay among them.
  std::vector<Index> send_rows(static_cast<std::size_t>(ranks)), receive_rows(send_rows.size());
  const Index own = dispatcher.local_experts();
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
  const Comparison time = compare(together(there_and_back), together(bare), repetitions);
  const Index stays = send_rows[static_cast<std::size_t>(group.rank())];
  const Index crossing = group.sum(kTokens * kTopK - stays + received - stays);
  if (group.rank() != 0) return;
  const double bytes = 8 * static_cast<double>(crossing * kHidden) * sizeof(float);
  print_figure(fmt::format("dispatch and combine, {} ranks x {} tokens, top {}, hidden {}", ranks, kTokens,
                           kTopK, kHidden),
               fmt::format("{:.2f} GB/s between ranks, {:.0f}% of a bare all-to-all's {:.2f} GB/s",
                           bytes / time.subject / 1e9, 100 * time.ratio, bytes / time.reference / 1e9),
               0.75);
}

}  // namespace conclave::bench
