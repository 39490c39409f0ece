// The layer against a mixture of experts implemented in PyTorch, with the tokens divided over the ranks of
// this run.
#include <catch2/catch.hpp>

#include "tests/fixtures/fixture.h"
#include "tests/ranks/moe_run.h"

namespace conclave {
namespace {

// This rank's consecutive rows; the remainder goes to the lower ranks.
Tensor rows_of_rank(const Tensor& all) {
  const Index ranks = test_world().size(), rank = test_world().rank(), rows = all.size(0);
  return all.rows((rows * rank + ranks - 1) / ranks, (rows * (rank + 1) + ranks - 1) / ranks).clone();
}

template <class T>
void check_against_pytorch(bool with_losses, Index capacity) {
  const Fixture fixture("moe");
  MoeOptions options;
  options.hidden = 6;
  options.ffn = 10;
  options.experts = 4;
  options.shared_experts = 1;
  options.balancer = "none";
  if (with_losses) {
    options.balancer = "aux_loss";
    options.balancing.aux_coefficient = 0.05 / 0.5;  // run_moe() scales the losses by 0.5
    options.router_losses.z = 0.02 / 0.5;
  }
  const double agreement = std::is_same_v<T, float> ? 1e-5 : 1e-10;
  const MoeRunOptions how{
      .capacity = capacity, .prepare = [&](ParameterSet& parameters) {
        for (Parameter* parameter : parameters.parameters())
          parameter->value.copy_from(
              fixture(parameter->name, dtype_of<T>)
                  .rows(parameter->first_row, parameter->first_row + parameter->shape[0]));
      }};
  for (const int expert_parallel : grid_shapes()) {
    CAPTURE(expert_parallel, with_losses, capacity);
    const ProcessGrid grid = grid_of(expert_parallel);
    const MoeRun run = run_moe(options, grid, rows_of_rank(fixture("x", dtype_of<T>)),
                               rows_of_rank(fixture("dy", dtype_of<T>)), fixture("x").size(0), how);
    CHECK(distance(run.y, rows_of_rank(fixture("y"))) < agreement);
    CHECK(distance(run.dx, rows_of_rank(fixture(with_losses ? "dx_with_losses" : "dx"))) < agreement);
    for (const auto& [name, gradient] : run.gradients) {
      CAPTURE(name);
      const Index first = run.first_row.contains(name) ? run.first_row.at(name) : 0;
      const Tensor expected =
          fixture(with_losses && name == "router.weight" ? "drouter_with_losses" : "d" + name);
      CHECK(distance(gradient, expected.rows(first, first + gradient.size(0))) < agreement);
    }
    const Tensor load = Tensor::of<std::int64_t>({4}, std::span<const Index>(run.statistics.load));
    test_world().all_reduce(load);
    CHECK(distance(load, fixture("load")) == 0);
  }
}

TEMPLATE_TEST_CASE("the layer agrees with PyTorch, tokens and experts divided over the ranks",
                   "[moe][pytorch]", float, double) {
  check_against_pytorch<TestType>(false, 0);
  check_against_pytorch<TestType>(false, 3);  // in several rounds
}

TEMPLATE_TEST_CASE("auxiliary loss and z-loss have PyTorch's gradients", "[moe][pytorch]", float, double) {
  check_against_pytorch<TestType>(true, 0);
  check_against_pytorch<TestType>(true, 3);
}

}  // namespace
}  // namespace conclave
