// Runs one MoeLayer forward and backward over the ranks of a grid and collects all results.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "autograd/nn/parameter_set.h"
#include "parallel/data_parallel.h"
#include "parallel/moe/moe_layer.h"
#include "tests/core/values.h"
#include "tests/ranks/test_world.h"

namespace conclave {

/// This rank's rows [first, first + rows) among the `total` rows of all ranks.
struct Share {
  Index first = 0, rows = 0, total = 0;
};

inline Share share_of(Index my_rows) {
  Communicator& world = test_world();
  const Tensor mine = Tensor::of<std::int64_t>({1}, {my_rows}),
               all = Tensor::zeros({world.size()}, DType::i64);
  world.all_gather(mine, all);
  Share share{.rows = my_rows};
  for (int rank = 0; rank < world.size(); ++rank) {
    if (rank == world.rank()) share.first = share.total;
    share.total += all.data<std::int64_t>()[rank];
  }
  return share;
}

/// A grid of all ranks of this run, with expert groups of `expert_parallel` ranks; 0: a grid of this rank
/// alone.
inline ProcessGrid grid_of(int expert_parallel) {
  Communicator& world = test_world();
  return ProcessGrid(world.split(expert_parallel == 0 ? world.rank() : 0),
                     expert_parallel == 0 ? 1 : expert_parallel);
}

/// All sizes of expert groups that divide this run's number of ranks.
inline std::vector<int> grid_shapes() {
  std::vector<int> shapes;
  for (int ranks = 1; ranks <= test_world().size(); ++ranks)
    if (test_world().size() % ranks == 0) shapes.push_back(ranks);
  return shapes;
}

/// Offsets of one sequence of `rows` tokens.
inline Tensor one_sequence(Index rows) {
  return Tensor::of<std::int32_t>({2}, {0, static_cast<std::int32_t>(rows)});
}

struct MoeRun {
  Tensor y, dx;
  std::map<std::string, Tensor> values, gradients;  ///< by parameter; gradients summed over the ranks
  std::map<std::string, Index> first_row;           ///< of sharded parameters
  MoeStatistics statistics;
};

struct MoeRunOptions {
  Index capacity = 0;     ///< rows per round; 0: as planned
  bool planning = false;  ///< return the results of the planning pass
  std::function<void(ParameterSet&)> prepare = {};
  Tensor offsets = {};    ///< of x's sequences; undefined: one sequence
  Index first_token = 0;  ///< index of x's first token among the tokens of all ranks
  Index first_sequence = 0;
  Index uses = 1;  ///< how often the layer is applied, each time to its last output
};

/// x and dy: rows of this rank's tokens; all ranks of the grid together have `total` tokens.
inline MoeRun run_moe(const MoeOptions& options, const ProcessGrid& grid, const Tensor& x, const Tensor& dy,
                      Index total, const MoeRunOptions& how = {}) {
  MoeLayer layer(options, grid);
  ParameterSet parameters(layer, x.dtype(), 7);
  if (how.prepare) how.prepare(parameters);
  GradientReducer reducer(parameters, grid, 200);
  Arena arena("test");
  MoeRun run;
  const Tensor offsets = how.offsets.defined() ? how.offsets : one_sequence(x.size(0));
  const auto pass = [&] {
    ForwardContext context;
    context.global_tokens = total;
    context.loss_scale = 0.5;
    context.first_token = how.first_token;
    context.first_sequence = how.first_sequence;
    arena.reset();
    parameters.zero_gradients();
    layer.reset_statistics();
    Tape tape(arena);
    Tensor input = Tensor::borrow(x.raw(), x.shape(), x.dtype());
    tape.watch(input);
    Tensor y = input;
    for (Index use = 0; use < how.uses; ++use) y = layer(tape, context, y, offsets, use);
    reducer.arm();
    tape.backward(y, dy);
    reducer.finish();
    run.y = y.clone();
    run.dx = tape.gradient(input).clone();
  };
  pass();
  if (!how.planning) {
    arena.seal(std::size_t{4} << 20);  // how.capacity may need more memory than the planned capacity
    if (how.capacity > 0) layer.dispatcher().set_capacity(how.capacity);
    pass();
  }
  for (const Parameter* parameter : parameters.parameters()) {
    run.values[parameter->name] = parameter->value.clone();
    run.gradients[parameter->name] = parameter->slot.gradient.clone();
    if (parameter->sharded) run.first_row[parameter->name] = parameter->first_row;
  }
  run.statistics = layer.statistics();
  return run;
}

}  // namespace conclave
