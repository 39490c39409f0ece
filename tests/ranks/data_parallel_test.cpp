// After finish(), each rank has the sum of the gradients of all ranks that hold the parameter.
#include <catch2/catch.hpp>

#include "autograd/nn/layers.h"
#include "parallel/data_parallel.h"
#include "tests/core/values.h"
#include "tests/ranks/test_world.h"

namespace conclave {
namespace {

// Two linear layers, a parameter that the forward pass does not use, and this rank's part of four sharded
// rows.
struct PartlyShardedModel : Module {
  explicit PartlyShardedModel(const ProcessGrid& grid) {
    add_module("first", first);
    add_module("second", second);
    const Index rows = 4 / grid.expert_parallel();
    shard.sharded = true;
    shard.shape = {rows, 3};
    shard.first_row = rows * grid.expert_group().rank();
    shard.global_rows = 4;
  }
  Tensor operator()(Tape& tape, const Tensor& x) const {
    const Tensor y = second(tape, first(tape, x, Activation::gelu));
    return functions::linear(tape, y, shard.value, Tensor());
  }
  Linear first{3, 5}, second{5, 3};
  Parameter& unused = add_parameter("unused", {7}, Initializer::constant(0));
  Parameter& shard = add_parameter("shard", {4, 3}, Initializer::normal(1));
};

struct GridScene {
  explicit GridScene(int expert_parallel) : grid(test_world().split(0), expert_parallel) {}
  ProcessGrid grid;
  PartlyShardedModel model{grid};
  ParameterSet parameters{model, DType::f64, 1};
  Arena arena{"test"};
  Tensor x = random_values({6, 3}, static_cast<std::uint32_t>(test_world().rank()));  // differs between ranks

  void backward() {
    ArenaScope scope(arena);
    Tape tape(arena);
    const Tensor y = model(tape, Tensor::borrow(x.raw(), x.shape(), x.dtype()));
    tape.backward(y, random_values(y.shape(), static_cast<std::uint32_t>(50 + test_world().rank())));
  }
  /// The gradient of each parameter on this rank, before any reduction.
  std::vector<Tensor> local(int batches) {
    parameters.zero_gradients();
    for (int i = 0; i < batches; ++i) backward();
    std::vector<Tensor> gradients;
    for (const Parameter* parameter : parameters.parameters())
      gradients.push_back(parameter->slot.gradient.clone());
    parameters.zero_gradients();
    return gradients;
  }
  void check_sums(const std::vector<Tensor>& local) {
    for (std::size_t i = 0; i < local.size(); ++i) {
      const Parameter& parameter = *parameters.parameters()[i];
      CAPTURE(parameter.name);
      const Tensor expected = local[i].clone();
      (parameter.sharded ? grid.data_group() : grid.world()).all_reduce(expected);
      CHECK(distance(parameter.slot.gradient, expected) < 1e-12);
    }
  }
};

template <class Body>
void for_every_grid(Body body) {
  for (int ranks = 1; ranks <= test_world().size(); ranks *= 2) {
    CAPTURE(ranks);
    body(ranks);
  }
}

TEST_CASE("reduced gradients are the sums over the ranks that hold the parameter", "[data_parallel]") {
  for_every_grid([](int expert_parallel) {
    for (const std::size_t bucket_bytes : {std::size_t{1}, std::size_t{200}, std::size_t{1} << 20}) {
      CAPTURE(bucket_bytes);
      GridScene s(expert_parallel);
      const auto local = s.local(1);
      GradientReducer reducer(s.parameters, s.grid, bucket_bytes);
      for (int step = 0; step < 2; ++step) {
        s.parameters.zero_gradients();
        reducer.arm();
        s.backward();
        reducer.finish();
        s.check_sums(local);
      }
    }
  });
}

TEST_CASE("micro-batches before the armed one only accumulate", "[data_parallel]") {
  for_every_grid([](int expert_parallel) {
    GridScene s(expert_parallel);
    const auto local = s.local(3);
    GradientReducer reducer(s.parameters, s.grid, 200);
    s.parameters.zero_gradients();
    s.backward();
    s.backward();
    reducer.arm();
    s.backward();
    reducer.finish();
    s.check_sums(local);
  });
}

TEST_CASE("a parameter that is larger than a message is reduced in pieces", "[data_parallel]") {
  for_every_grid([](int expert_parallel) {
    GridScene s(expert_parallel);
    const auto local = s.local(1);
    for (const std::size_t bucket_bytes : {std::size_t{1}, std::size_t{1} << 20}) {
      GradientReducer reducer(s.parameters, s.grid, bucket_bytes, 4);
      CHECK((reducer.pieces() > reducer.buckets() || s.grid.world().size() == 1));
      s.parameters.zero_gradients();
      reducer.arm();
      s.backward();
      reducer.finish();
      s.check_sums(local);
    }
  });
}

TEST_CASE("a rank whose pass reaches no parameter still takes part", "[data_parallel]") {
  for_every_grid([](int expert_parallel) {
    GridScene s(expert_parallel);
    auto local = s.local(1);
    const bool idle = test_world().rank() == 0;
    if (idle)
      for (const Tensor& gradient : local) gradient.zero();
    GradientReducer reducer(s.parameters, s.grid, 200);
    s.parameters.zero_gradients();
    reducer.arm();
    if (!idle) s.backward();
    reducer.finish();
    s.check_sums(local);
  });
}

TEST_CASE("small buckets hold a parameter, large ones a segment; one rank needs none", "[data_parallel]") {
  GridScene s(1);
  const GradientReducer single(s.parameters, s.grid, 1), large(s.parameters, s.grid, std::size_t{1} << 20);
  const bool alone = test_world().size() == 1;
  CHECK(single.buckets() == (alone ? 0 : s.parameters.parameters().size()));
  CHECK(large.buckets() == (alone ? 0 : s.parameters.segments().size()));
}

TEST_CASE("a destroyed reducer leaves the parameters unchanged", "[data_parallel]") {
  GridScene s(1);
  const auto local = s.local(1);
  { GradientReducer reducer(s.parameters, s.grid, 200); }
  s.parameters.zero_gradients();
  s.backward();
  for (std::size_t i = 0; i < local.size(); ++i)
    CHECK(same_bits(s.parameters.parameters()[i]->slot.gradient, local[i]));
}

}  // namespace
}  // namespace conclave
