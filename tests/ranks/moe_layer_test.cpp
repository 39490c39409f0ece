// The mixture-of-experts layer gives the same results for every division of its experts and tokens over
// ranks.
#include <algorithm>
#include <catch2/catch.hpp>
#include <functional>
#include <numeric>

#include "core/kernels/reduction.h"
#include "tests/ranks/moe_run.h"

namespace conclave {
namespace {

constexpr Index kLayerHidden = 6;

MoeOptions small_layer() {
  MoeOptions options;
  options.hidden = kLayerHidden;
  options.ffn = 10;
  options.experts = 8;
  options.top_k = 2;
  options.shared_experts = 1;
  options.balancer = "aux_loss";
  options.balancing.aux_coefficient = 0.1;
  options.router_losses.z = 0.05;
  return options;
}

void check_close(const Tensor& actual, const Tensor& expected) {
  CHECK(distance(actual, expected) < (actual.dtype() == DType::f64 ? 1e-11 : 1e-5));
}

// Offsets of sequences of three tokens; the last sequence of each rank has the one to three tokens that are
// left.
Tensor sequences_of(const std::vector<Index>& rows) {
  std::vector<std::int32_t> offsets{0};
  for (const Index count : rows)
    for (Index left = count; left > 0; left -= 3)
      offsets.push_back(offsets.back() + static_cast<std::int32_t>(std::min<Index>(left, 3)));
  return Tensor::of<std::int32_t>({static_cast<Index>(offsets.size())}, offsets);
}

// This rank has `rows` tokens. The grid's results must equal those that one rank computes for the tokens of
// all ranks.
void check_against_one_rank(const MoeOptions& options, Index rows, DType dtype, MoeRunOptions how = {},
                            const std::function<void(const MoeRun&, int)>& and_then = {}) {
  const Share share = share_of(rows);
  const Tensor all_x = random_values({share.total, kLayerHidden}, 1, dtype),
               all_dy = random_values(all_x.shape(), 2, dtype);
  if (share.total > 0)
    for (Index t = 0; t < share.total; ++t)
      all_x.slice(0, t, t + 1).slice(1, 0, 1).fill(1);  // lean_on_expert_zero() relies on this column
  const auto mine = [&](const Tensor& all) { return all.rows(share.first, share.first + share.rows); };
  const Tensor rows_of = Tensor::zeros({test_world().size()}, DType::i64);
  test_world().all_gather(Tensor::of<std::int64_t>({1}, {rows}), rows_of);
  const auto all_rows = rows_of.span<std::int64_t>();
  const auto before = all_rows.first(static_cast<std::size_t>(test_world().rank()));
  how.offsets = sequences_of({rows});
  how.first_token = share.first;
  how.first_sequence = sequences_of({before.begin(), before.end()}).numel() - 1;
  const ProcessGrid alone = grid_of(0);
  const MoeRun expected = run_moe(options, alone, all_x, all_dy, share.total,
                                  {.prepare = how.prepare,
                                   .offsets = sequences_of({all_rows.begin(), all_rows.end()}),
                                   .uses = how.uses});
  for (const int expert_parallel : grid_shapes()) {
    CAPTURE(expert_parallel, rows, share.total);
    const ProcessGrid grid = grid_of(expert_parallel);
    const MoeRun run = run_moe(options, grid, mine(all_x).clone(), mine(all_dy).clone(), share.total, how);
    check_close(run.y, mine(expected.y));
    check_close(run.dx, mine(expected.dx));
    REQUIRE(run.gradients.size() == expected.gradients.size());
    for (const auto& [name, gradient] : run.gradients) {
      CAPTURE(name);
      const bool sharded = run.first_row.contains(name);
      const Index first = sharded ? run.first_row.at(name) : 0;
      const auto part = [&](const Tensor& whole) { return whole.rows(first, first + gradient.size(0)); };
      CHECK(same_bits(run.values.at(name), part(expected.values.at(name))));
      check_close(gradient, part(expected.gradients.at(name)));
    }
    if (and_then) and_then(run, expert_parallel);
  }
}

// This rank's number of tokens, which differs between ranks.
Index uneven_rows() { return 9 + 5 * (test_world().rank() % 3); }

// Makes the router send every token to expert 0, through the first column of x.
void lean_on_expert_zero(ParameterSet& parameters) {
  for (Parameter* parameter : parameters.parameters()) {
    if (parameter->name != "router.weight") continue;
    for_floating(parameter->value.dtype(), "test",
                 [&]<class T>(T) { parameter->value.data<T>()[0] = T(30); });
  }
}

TEST_CASE("outputs and gradients equal those of one rank, for every division of ranks", "[moe]") {
  check_against_one_rank(small_layer(), uneven_rows(), DType::f64, {}, [](const MoeRun& run, int) {
    CHECK(run.statistics.rounds == 1);
    CHECK(run.statistics.passes == 1);
    CHECK(std::reduce(run.statistics.load.begin(), run.statistics.load.end()) == 2 * uneven_rows());
  });
  check_against_one_rank(small_layer(), uneven_rows(), DType::f32);
}

TEST_CASE("outputs equal those of one rank for any k, shared experts and balancer", "[moe]") {
  for (const Index top_k : {1, 3, 8}) {
    for (const Index shared : {0, 2}) {
      MoeOptions options = small_layer();
      options.top_k = top_k;
      options.shared_experts = shared;
      options.balancer = shared ? "bias" : "none";
      options.router_losses.z = 0;
      check_against_one_rank(options, uneven_rows(), DType::f32);
    }
  }
}

TEST_CASE("every router sends tokens as it does on one rank, with noise and without", "[moe]") {
  for (const std::string& router : router_kinds()) {
    for (const double noise : {0.0, 0.7}) {
      CAPTURE(router, noise);
      MoeOptions options = small_layer();
      options.router = router;
      options.router_heads = 2;
      options.router_noise = noise;
      check_against_one_rank(options, uneven_rows(), DType::f64);
    }
  }
}

TEST_CASE("expert choice takes the same tokens on any number of ranks", "[moe]") {
  for (const bool lean : {false, true}) {
    for (const Index capacity : {0, 4}) {
      MoeOptions options = small_layer();
      options.gate = "expert_choice";
      options.balancer = "none";
      const MoeRunOptions how{.capacity = capacity,
                              .prepare = lean ? lean_on_expert_zero : std::function<void(ParameterSet&)>()};
      check_against_one_rank(options, uneven_rows(), DType::f64, how, [&](const MoeRun& run, int) {
        const Tensor load = Tensor::of<std::int64_t>({8}, std::span<const Index>(run.statistics.load));
        test_world().all_reduce(load);
        const Index each = (share_of(uneven_rows()).total * 2 + 7) / 8;
        for (const std::int64_t rows : load.span<std::int64_t>()) CHECK(rows == each);
      });
    }
  }
}

TEST_CASE("tokens may go to different numbers of experts, in one round or several", "[moe]") {
  for (const Index capacity : {0, 4}) {
    MoeOptions options = small_layer();
    options.top_k = 3;
    options.top_p = {0.4, 1};
    options.router_losses.entropy = 0.2;
    check_against_one_rank(
        options, uneven_rows(), DType::f64, {.capacity = capacity}, [](const MoeRun& run, int) {
          const Index sent = std::reduce(run.statistics.load.begin(), run.statistics.load.end());
          CHECK(sent > uneven_rows());
          CHECK(sent < 3 * uneven_rows());
        });
  }
}

TEST_CASE("several dispatch rounds give what one round gives", "[moe]") {
  for (const Index capacity : {1, 4, 17}) {
    check_against_one_rank(small_layer(), uneven_rows(), DType::f64, {.capacity = capacity},
                           [&](const MoeRun& run, int expert_parallel) {
                             CAPTURE(capacity);
                             if (expert_parallel > 1 && capacity < 17) CHECK(run.statistics.rounds > 1);
                             if (expert_parallel == 1) CHECK(run.statistics.rounds == 1);
                           });
  }
}

TEST_CASE("a layer may be used several times in a pass, in one round or several", "[moe]") {
  for (const Index capacity : {0, 4})
    for (const char* balancer : {"aux_loss", "none"}) {
      CAPTURE(capacity, balancer);
      MoeOptions options = small_layer();
      options.balancer = balancer;
      options.router = "attention_token";
      options.router_heads = 2;
      check_against_one_rank(options, uneven_rows(), DType::f64, {.capacity = capacity, .uses = 3},
                             [](const MoeRun& run, int) {
                               CHECK(run.statistics.passes == 3);
                               CHECK(std::reduce(run.statistics.load.begin(), run.statistics.load.end()) ==
                                     3 * 2 * uneven_rows());
                             });
      options.dispatch_chunks = 2;
      check_against_one_rank(options, uneven_rows(), DType::f64, {.capacity = capacity, .uses = 2});
    }
}

TEST_CASE("rows sent in chunks give the same result as in one piece", "[moe]") {
  for (const Index chunks : {2, 3, 4}) {
    CAPTURE(chunks);
    MoeOptions options = small_layer();
    options.dispatch_chunks = chunks;
    check_against_one_rank(options, uneven_rows(), DType::f64, {},
                           [](const MoeRun& run, int) { CHECK(run.statistics.rounds == 1); });
    check_against_one_rank(options, uneven_rows(), DType::f32);
    check_against_one_rank(options, uneven_rows(), DType::f64, {.planning = true});
    check_against_one_rank(options, uneven_rows(), DType::f64, {.capacity = 4});
    for (const Index rows : {0, 1})  // most chunks have no rows
      check_against_one_rank(options, test_world().rank() == 0 ? rows : 0, DType::f64);
    options.shared_experts = 0;
    options.expert = "3 gated, 5 feed_forward";
    check_against_one_rank(options, uneven_rows(), DType::f64);
    options.top_k = 1;
    check_against_one_rank(options, uneven_rows(), DType::f64, {.prepare = lean_on_expert_zero});
    check_against_one_rank(options, uneven_rows(), DType::f64,
                           {.capacity = 5, .prepare = lean_on_expert_zero});
    options.expert = "1 test_recurrent, 7 gated";  // experts with sequences get all of them in one chunk
    check_against_one_rank(options, uneven_rows(), DType::f64);
  }
}

TEST_CASE("experts may be of several kinds, and a rank may have none of a kind", "[moe]") {
  for (const char* kinds : {"6 feed_forward, 2 gated", "1 gated, 7 feed_forward", "8 gated"}) {
    for (const Index capacity : {0, 4}) {
      CAPTURE(kinds, capacity);
      MoeOptions options = small_layer();
      options.expert = kinds;
      check_against_one_rank(options, uneven_rows(), DType::f64, {.capacity = capacity});
      check_against_one_rank(options, test_world().rank() % 2 == 0 ? 0 : 11, DType::f64,
                             {.capacity = capacity});
    }
    MoeOptions options = small_layer();
    options.expert = kinds;
    check_against_one_rank(options, uneven_rows(), DType::f64, {.planning = true});
  }
}

// Returns, for each row, how many rows of its sequence arrived at its expert.
struct CountingExperts : BaseExpert {
  using BaseExpert::BaseExpert;
  bool wants_sequences() const override { return true; }
  Tensor forward(Tape& tape, const ExpertInput& input) override {
    const Tensor y = tape.output(input.rows.shape(), input.rows.dtype(), {});
    REQUIRE(input.sequences.front() == 0);
    REQUIRE(input.sequences.back() == input.rows.size(0));
    for (std::size_t run = 0; run + 1 < input.sequences.size(); ++run) {
      const Index begin = input.sequences[run], end = input.sequences[run + 1];
      REQUIRE(begin < end);
      y.rows(begin, end).fill(static_cast<double>(end - begin));
    }
    return y;
  }
};
CONCLAVE_REGISTER_EXPERT("test_counting", CountingExperts);

// An LSTM: the output of a row depends on all earlier rows of the sequence.
struct RecurrentExperts : BaseExpert {
  using BaseExpert::BaseExpert;
  Parameter& in =
      add_expert_parameter("in", {4 * options_.hidden, options_.hidden}, Initializer::normal(0.4));
  Parameter& again =
      add_expert_parameter("again", {4 * options_.hidden, options_.hidden}, Initializer::normal(0.4));
  bool wants_sequences() const override { return true; }
  Tensor forward(Tape& tape, const ExpertInput& input) override {
    const Tensor projected = functions::grouped_linear(tape, input.rows, input.offsets, in.value, Tensor());
    return functions::lstm(tape, projected, input.offsets, input.sequences, again.value);
  }
};
CONCLAVE_REGISTER_EXPERT("test_recurrent", RecurrentExperts);

TEST_CASE("experts that want sequences get the sequences of their tokens", "[moe]") {
  MoeOptions options = small_layer();
  options.shared_experts = 0;
  options.balancer = "none";
  options.top_k = 1;  // so the weight of each token is 1
  for (const char* kinds : {"8 test_counting", "3 test_counting, 4 feed_forward, 1 test_recurrent"}) {
    options.expert = kinds;
    const ProcessGrid grid = grid_of(test_world().size());
    MoeLayer layer(options, grid);
    ParameterSet parameters(layer, DType::f64, 7);
    const Index tokens = uneven_rows(), counting = kinds[0] - '0';
    const Tensor offsets = sequences_of({tokens}),
                 x = random_values({tokens, kLayerHidden}, static_cast<std::uint32_t>(test_world().rank()));
    Arena arena("test");
    Tape tape(arena, false);
    ForwardContext context;
    context.training = false;
    const Tensor y = layer(tape, context, x, offsets);
    const auto chosen = layer.chosen_experts(tape).span<std::int32_t>();
    for (Index t = 0; t < tokens; ++t) {
      if (chosen[size_t(t)] >= counting) continue;
      const auto sequence = chosen.subspan(size_t(t / 3 * 3), size_t(std::min<Index>(3, tokens - t / 3 * 3)));
      CHECK(y.data<double>()[t * kLayerHidden] == Approx(std::ranges::count(sequence, chosen[size_t(t)])));
    }
  }
}

TEST_CASE("experts with sequences give the same result as on one rank", "[moe]") {
  for (const char* kinds :
       {"test_recurrent", "5 feed_forward, 3 test_recurrent", "1 test_recurrent, 7 gated"})
    for (const char* router : {"linear", "attention"}) {
      CAPTURE(kinds, router);
      MoeOptions options = small_layer();
      options.expert = kinds;
      options.router = router;
      options.router_heads = 2;
      check_against_one_rank(options, uneven_rows(), DType::f64, {},
                             [](const MoeRun& run, int) { CHECK(run.statistics.rounds == 1); });
      check_against_one_rank(options, uneven_rows(), DType::f64, {.planning = true});
      check_against_one_rank(options, test_world().rank() % 2 == 0 ? 0 : 11, DType::f64);
      check_against_one_rank(options, 0, DType::f64);
    }
}

TEST_CASE("sequences that do not fit one round are refused", "[moe]") {
  if (test_world().size() == 1) return;
  MoeOptions options = small_layer();
  options.expert = "test_recurrent";
  const ProcessGrid grid = grid_of(test_world().size());
  const Tensor x = random_values({9, kLayerHidden}, 1);
  CHECK_THROWS_WITH(run_moe(options, grid, x, x, 9 * test_world().size(), {.capacity = 4}),
                    Catch::Contains("room for 4; experts that want sequences need them all at once"));
}

TEST_CASE("gradient squares for the balancer include all kinds of experts", "[moe]") {
  MoeOptions options = small_layer();
  options.expert = "3 gated, 5 feed_forward";
  const ProcessGrid grid = grid_of(test_world().size());
  MoeLayer layer(options, grid);
  ParameterSet parameters(layer, DType::f64, 7);
  // The gradients identify their expert: all elements of expert e are e + 1.
  std::vector<double> expected(8), squares(8);
  for (Parameter* parameter : parameters.parameters()) {
    if (!parameter->sharded) continue;
    const bool gated = parameter->name.starts_with("experts.gated.");
    CHECK(parameter->global_rows == (gated ? 3 : 5));
    for (Index i = 0; i < parameter->shape[0]; ++i) {
      const Index expert = parameter->first_row + i + (gated ? 0 : 3);
      CHECK(expert / (8 / test_world().size()) == test_world().rank());
      const Tensor gradient = parameter->slot.gradient.rows(i, i + 1);
      gradient.fill(static_cast<double>(expert + 1));
      expected[size_t(expert)] += static_cast<double>(gradient.numel() * (expert + 1) * (expert + 1));
    }
  }
  layer.add_gradient_squares(squares);
  for (std::size_t e = 0; e < 8; ++e) CHECK(squares[e] == Approx(expected[e]));
}

TEST_CASE("ranks without tokens take part in the layer", "[moe]") {
  const int rank = test_world().rank();
  for (const Index capacity : {0, 3}) {
    check_against_one_rank(small_layer(), rank % 2 == 0 ? 0 : 11, DType::f64, {.capacity = capacity});
    check_against_one_rank(small_layer(), rank % 2 == 1 ? 0 : 11, DType::f64, {.capacity = capacity});
    check_against_one_rank(small_layer(), 0, DType::f64, {.capacity = capacity});
  }
}

TEST_CASE("the layer works with a single token among all ranks", "[moe]") {
  check_against_one_rank(small_layer(), test_world().rank() == test_world().size() - 1 ? 1 : 0, DType::f64);
}

TEST_CASE("no token is dropped when all tokens go to one expert", "[moe]") {
  MoeOptions options = small_layer();
  options.top_k = 1;
  for (const Index capacity : {0, 5})
    check_against_one_rank(options, uneven_rows(), DType::f64,
                           {.capacity = capacity, .prepare = lean_on_expert_zero},
                           [](const MoeRun& run, int) {
                             CHECK(run.statistics.load[0] == uneven_rows());
                             CHECK(run.statistics.load[1] == 0);
                           });
}

TEST_CASE("the planning pass computes the same numbers on its padded rows", "[moe]") {
  MoeOptions options = small_layer();
  check_against_one_rank(options, uneven_rows(), DType::f64, {.planning = true});
}

TEST_CASE("memory planned with one routing suffices for every other routing", "[moe]") {
  // Three layers, so that the memory that each keeps for its backward pass adds up.
  struct Model : Module {
    Model(const MoeOptions& options, const ProcessGrid& grid)
        : a(options, grid), b(options, grid), c(options, grid) {
      add_module("a", a);
      add_module("b", b);
      add_module("c", c);
    }
    MoeLayer a, b, c;
  };
  MoeOptions options = small_layer();
  options.top_k = 1;
  options.expert =
      GENERATE("feed_forward", "1 gated, 7 feed_forward", "7 feed_forward, 1 gated", "test_recurrent",
               "1 test_recurrent, 7 gated", "7 feed_forward, 1 test_recurrent");
  options.shared_experts = 0;
  options.dispatch_chunks = GENERATE(1, 3, 4);
  const ProcessGrid grid = grid_of(test_world().size());
  const Tensor x = random_values({200, kLayerHidden}, 1, DType::f32),
               dy = random_values(x.shape(), 2, DType::f32);
  for (Index t = 0; t < 200; ++t) x.slice(0, t, t + 1).slice(1, 0, 1).fill(1);
  for (const bool skewed_first : {true, false}) {
    Model model(options, grid);
    ParameterSet parameters(model, DType::f32, 7);
    Arena arena("activations");
    const auto pass = [&](bool skewed) {
      for (Parameter* parameter : parameters.parameters())
        if (parameter->name.ends_with("router.weight"))
          parameter->value.data<float>()[0] = skewed ? 50.0f : 0.0f;
      arena.reset();
      parameters.zero_gradients();
      Tape tape(arena);
      ForwardContext context;
      context.global_tokens = 200 * test_world().size();
      const Tensor offsets = one_sequence(200);
      const Tensor first = functions::add(tape, model.a(tape, context, x, offsets), x);
      const Tensor second = functions::add(tape, model.b(tape, context, first, offsets), first);
      const Tensor third = functions::add(tape, model.c(tape, context, second, offsets), second);
      tape.backward(third, dy);
      for (const auto& segment : parameters.segments()) REQUIRE(kernels::all_finite(segment.gradients));
    };
    pass(skewed_first);
    arena.seal(arena.peak() / 64 + (std::size_t{1} << 16));  // as the trainer does
    for (const bool skewed : {false, true, false}) REQUIRE_NOTHROW(pass(skewed));
  }
}

TEST_CASE("evaluation computes the same outputs and counts no load", "[moe]") {
  const ProcessGrid grid = grid_of(test_world().size());
  MoeLayer layer(small_layer(), grid);
  ParameterSet parameters(layer, DType::f32, 7);
  const Tensor x = random_values({uneven_rows(), kLayerHidden}, 1, DType::f32);
  Arena arena("test");
  Tape training(arena), evaluating(arena, false);
  ForwardContext context, evaluation;
  context.global_tokens = share_of(x.size(0)).total;
  evaluation.training = false;
  const Tensor offsets = one_sequence(x.size(0));
  const Tensor y = layer(training, context, x, offsets);
  layer.reset_statistics();
  CHECK(distance(layer(evaluating, evaluation, x, offsets), y) < 1e-6);
  CHECK(std::ranges::count(layer.statistics().load, 0) == 8);
  CHECK(layer.chosen_experts(evaluating).shape() == Shape{x.size(0), 2});
}

TEST_CASE("impossible options of a layer are refused with the reason", "[moe]") {
  const ProcessGrid grid = grid_of(test_world().size());
  MoeOptions options = small_layer();
  options.top_k = 9;
  CHECK_THROWS_WITH(MoeLayer(options, grid), "moe: top_k 9 of 8 experts");
  options = small_layer();
  options.balancer = "even";
  CHECK_THROWS_WITH(MoeLayer(options, grid),
                    Catch::Contains("no kind of balancer is named 'even'; there are: "));
  options = small_layer();
  options.router = "even";
  CHECK_THROWS_WITH(MoeLayer(options, grid),
                    Catch::Contains("no kind of router is named 'even'; there are: "));
  options = small_layer();
  options.route_cache_mib = 1;
  CHECK_THROWS_WITH(MoeLayer(options, grid),
                    Catch::Contains("moe.route_cache_mib = 1: router \"linear\" scores"));
  options.router = "attention";
  options.router_heads = 2;
  CHECK_NOTHROW(MoeLayer(options, grid));
  options.route_cache_mib = 1e9;
  CHECK_THROWS_WITH(MoeLayer(options, grid), Catch::Contains("moe.route_cache_mib"));
  options = small_layer();
  options.experts = 7;
  if (test_world().size() > 1)
    CHECK_THROWS_WITH(MoeLayer(options, grid),
                      "moe: 7 experts do not divide over " + std::to_string(test_world().size()) + " ranks");
}

}  // namespace
}  // namespace conclave
