// Gradient normalization: loads become even, weights and factors stay within their bounds for any input, and
// the statistics of the experts' gradients are right on any number of ranks.
#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <limits>
#include <numeric>

#include "core/kernels/permutation.h"
#include "core/random.h"
#include "parallel/moe/grad_norm.h"
#include "tests/ranks/moe_run.h"

namespace conclave {
namespace {

constexpr Index kRoutedTokens = 400;

// Router probabilities of a batch of tokens that prefer the first experts. A larger `sharpness` means a
// router that is more certain; each `batch` gives other tokens.
Tensor preferences(Index experts, double sharpness, std::uint32_t batch) {
  const Tensor p = Tensor::empty({kRoutedTokens, experts});
  const RandomStream stream{.seed = 1, .step = batch, .tensor = 0};
  float* values = p.data<float>();
  for (Index token = 0; token < kRoutedTokens; ++token, values += experts) {
    double sum = 0;
    for (Index e = 0; e < experts; ++e) {
      const double score =
          stream.normal(static_cast<std::uint64_t>(token * experts + e)) - 0.2 * static_cast<double>(e);
      values[e] = static_cast<float>(std::exp(sharpness * score));
      sum += values[e];
    }
    for (Index e = 0; e < experts; ++e) values[e] = static_cast<float>(values[e] / sum);
  }
  return p;
}

std::vector<Index> loads(const Tensor& p, const kernels::Selection& selection) {
  const Tensor experts = Tensor::empty({p.size(0), 2}, DType::i32), weights = Tensor::empty(experts.shape());
  kernels::top_k_gate(p, selection, experts, weights);
  std::vector<Index> load(static_cast<std::size_t>(p.size(1)));
  kernels::count_experts(experts, load);
  return load;
}

// Gradient norms as if an expert's norm were its number of rows times a strength that grows with its index.
std::vector<double> norms(const std::vector<Index>& load) {
  std::vector<double> norm;
  for (std::size_t e = 0; e < load.size(); ++e)
    norm.push_back(static_cast<double>(load[e]) * (1.0 + 0.3 * static_cast<double>(e)));
  return norm;
}

struct TrainedRouter {
  double first = 0, last = 0;  // mean utilization of the first ten and of the last ten batches
  double inference = 0;        // utilization of fifty other batches together
  std::vector<double> weights;
};

TrainedRouter train_router(const BalancerOptions& options, double sharpness, int steps = 200) {
  constexpr Index kExperts = 6;
  GradNormBalancer balancer(kExperts, options);
  TrainedRouter result;
  const std::vector<double> loss{2.0, 1.5, 1.2, 2.0, 1.0, 0.9};
  for (int step = 0; step < steps; ++step) {
    const Tensor p = preferences(kExperts, sharpness, static_cast<std::uint32_t>(step));
    const auto selection = balancer.select_batch(
        [&](const kernels::Selection& selection, std::span<Index> load) {
          std::ranges::copy(loads(p, selection), load.begin());
        },
        true);
    const auto load = loads(p, selection);
    if (step < 10) result.first += utilization(load) / 10;
    if (step >= steps - 10) result.last += utilization(load) / 10;
    balancer.update({load, norms(load), loss});
  }
  std::vector<Index> together(kExperts);
  for (std::uint32_t batch = 0; batch < 50; ++batch) {
    const auto load = loads(preferences(kExperts, sharpness, 100'000 + batch), balancer.selection());
    std::ranges::transform(together, load, together.begin(), std::plus{});
  }
  result.inference = utilization(together);
  const auto weights = balancer.gradient_weights();
  result.weights.assign(weights.begin(), weights.end());
  return result;
}

TEST_CASE("experts' loads become even, however sure the router is", "[grad_norm]") {
  for (const double sharpness : {0.5, 2.0, 6.0}) {
    CAPTURE(sharpness);
    const TrainedRouter trained = train_router({}, sharpness);
    CHECK(trained.last > 0.95);
    CHECK(trained.inference > 0.95);
    CHECK(trained.first < trained.last);
  }
}

TEST_CASE("weights alone do not change loads, and bias alone evens out only gradients", "[grad_norm]") {
  const TrainedRouter none = train_router({.grad_norm_moves = "weights"}, 2.0, 1),
                      weights = train_router({.grad_norm_moves = "weights"}, 2.0),
                      bias = train_router({.grad_norm_moves = "bias"}, 2.0),
                      both = train_router({.grad_norm_alpha = 0}, 2.0);
  CHECK(weights.inference == none.inference);
  CHECK(weights.inference < 0.7);
  CHECK(bias.inference < 0.8);  // the strengths of the gradients differ by a factor of 2.5
  CHECK(both.inference > 0.95);
  CHECK(bias.weights == std::vector<double>(6, 1.0));
  // All experts learn at the same rate per row, so the weights are inversely proportional to the strengths.
  for (std::size_t e = 0; e < 6; ++e)
    CHECK(both.weights[e] * (1 + 0.3 * static_cast<double>(e)) == Approx(both.weights[0]).epsilon(0.01));
}

TEST_CASE("an expert with a lagging loss gets a larger weight at the same load", "[grad_norm]") {
  GradNormBalancer balancer(3, {.grad_norm_alpha = 1});
  const std::vector<Index> load{100, 100, 100};
  const std::vector<double> norm{1, 1, 1};
  balancer.update({load, norm, std::vector<double>{2, 2, 2}});
  for (int step = 0; step < 400; ++step) balancer.update({load, norm, std::vector<double>{1, 1, 2}});
  const auto weights = balancer.gradient_weights();
  CHECK(weights[2] == Approx(2 * weights[0]).epsilon(0.01));
  CHECK(weights[0] == Approx(weights[1]));
}

TEST_CASE("the selection factor of an expert without tokens keeps rising", "[grad_norm]") {
  GradNormBalancer balancer(3, {});
  const std::vector<Index> load{300, 300, 0};
  const auto factor = [&](Index e) { return balancer.selection().factor.data<float>()[e]; };
  float before = factor(2);
  for (int step = 0; step < 20; ++step) {
    balancer.select_batch(
        [&](const kernels::Selection&, std::span<Index> out) { std::ranges::copy(load, out.begin()); }, true);
    balancer.update({load, std::vector<double>{1, 1, 0}, std::vector<double>{1, 1, 0}});
    CHECK(factor(2) > before);
    before = factor(2);
  }
  CHECK(balancer.gradient_weights()[2] == Approx(1).epsilon(0.2));
}

TEST_CASE("weights and factors stay finite and within bounds for any input", "[grad_norm]") {
  const RandomStream stream{.seed = 5, .step = 0, .tensor = 0};
  std::uint64_t number = 0;
  const auto any = [&](double most) { return std::floor(most * std::pow(stream.uniform(number++), 8)); };
  GradNormBalancer balancer(4, {.grad_norm_rate = 1, .grad_norm_alpha = 3});
  for (int step = 0; step < 3000; ++step) {
    std::vector<Index> load(4);
    std::vector<double> norm(4), loss(4);
    for (std::size_t e = 0; e < 4; ++e) {
      load[e] = static_cast<Index>(any(1e6));
      if (load[e] == 0) continue;
      norm[e] = any(1e12);
      loss[e] = any(1e9) + 1e-9;
    }
    balancer.select_batch(
        [&](const kernels::Selection&, std::span<Index> out) { std::ranges::copy(load, out.begin()); }, true);
    balancer.update({load, norm, loss});
    balancer.calibrate(load, step);
    for (const double weight : balancer.gradient_weights()) {
      REQUIRE(weight >= 1 / GradNormBalancer::kMostWeight);
      REQUIRE(weight <= GradNormBalancer::kMostWeight);
    }
    for (const float factor : balancer.selection().factor.span<float>()) {
      REQUIRE(std::abs(std::log(factor)) <= GradNormBalancer::kMostBias + 1e-3);
    }
  }
}

TEST_CASE("calibration evens the loads of inference where they differ from training's", "[grad_norm]") {
  GradNormBalancer balancer(5, {});
  const auto load_of = [&](std::uint32_t batch) {
    return loads(preferences(5, 2.0, batch), balancer.selection());
  };
  const double before = utilization(load_of(1000));
  for (std::uint32_t batch = 0; batch < 64; ++batch) balancer.calibrate(load_of(batch), batch);
  std::vector<Index> together(5);
  for (std::uint32_t batch = 0; batch < 20; ++batch)
    std::ranges::transform(together, load_of(2000 + batch), together.begin(), std::plus{});
  CHECK(before < 0.75);
  CHECK(utilization(together) > 0.97);
}

TEST_CASE("gradient norms and losses of experts are the same on any number of ranks", "[grad_norm]") {
  MoeOptions options{.hidden = 6, .ffn = 5, .experts = 4};
  options.balancer = "grad_norm";
  const Share share = share_of(6 + 3 * test_world().rank());
  const Tensor all_x = random_values({share.total, 6}, 1, DType::f32),
               all_dy = random_values({share.total, 6}, 2, DType::f32);
  struct Signals {
    std::vector<double> squares = std::vector<double>(4), loss = std::vector<double>(4),
                        weight = std::vector<double>(4), weighted = std::vector<double>(4);
  };
  const auto signals = [&](const ProcessGrid& grid, Index first, Index rows, Index total) {
    MoeLayer layer(options, grid);
    ParameterSet parameters(layer, DType::f32, 7);
    GradientReducer reducer(parameters, grid, 200);
    Arena arena("test");
    Tape tape(arena);
    ForwardContext context;
    context.global_tokens = total;
    const Tensor x = all_x.rows(first, first + rows).clone();
    Tensor input = Tensor::borrow(x.raw(), x.shape(), x.dtype());
    tape.watch(input);
    // Sequences of three tokens; the loss of a sequence is the index of its first token.
    std::vector<std::int32_t> bounds;
    std::vector<float> losses;
    for (Index row = 0; row <= rows; row += 3) bounds.push_back(static_cast<std::int32_t>(row));
    for (Index row = 0; row < rows; row += 3) losses.push_back(static_cast<float>(first + row));
    const Tensor offsets = Tensor::of<std::int32_t>({static_cast<Index>(bounds.size())}, bounds);
    const Tensor y = layer(tape, context, input, offsets);
    layer.attribute_losses(tape, Tensor::of<float>({static_cast<Index>(losses.size())}, losses), offsets);
    reducer.arm();
    tape.backward(y, all_dy.rows(first, first + rows).clone());
    reducer.finish();
    Signals found;
    layer.add_gradient_squares(found.squares);
    found.loss = layer.statistics().loss;
    found.weight = layer.statistics().weight;
    // Gives the experts weights other than 1.
    layer.balancer().update({layer.statistics().load, found.squares, std::vector<double>(4, 1.0)});
    const Tensor weights = Tensor::of<double>({4}, layer.balancer().gradient_weights());
    grid.world().broadcast(weights, 0);
    std::ranges::copy(weights.span<double>(), layer.balancer().state()[2].values.span<double>().begin());
    layer.weight_gradients();
    layer.add_gradient_squares(found.weighted);
    for (auto* values : {&found.squares, &found.loss, &found.weight, &found.weighted})
      grid.world().all_reduce(Tensor::borrow(values->data(), {4}, DType::f64));
    for (std::size_t e = 0; e < 4; ++e)
      CHECK(found.weighted[e] == Approx(found.squares[e] * std::pow(weights.span<double>()[e], 2)));
    return found;
  };
  const Signals expected = signals(grid_of(0), 0, share.total, share.total);
  CHECK(std::reduce(expected.weight.begin(), expected.weight.end()) == Approx(share.total));
  double losses = 0;
  for (Index row = 0; row < share.total; row += 3) losses += 3.0 * static_cast<double>(row);
  CHECK(std::reduce(expected.loss.begin(), expected.loss.end()) == Approx(losses));
  for (const int expert_parallel : grid_shapes()) {
    CAPTURE(expert_parallel);
    const Signals found = signals(grid_of(expert_parallel), share.first, share.rows, share.total);
    for (std::size_t e = 0; e < 4; ++e) {
      CHECK(found.squares[e] == Approx(expected.squares[e]).epsilon(1e-5));
      CHECK(found.loss[e] == Approx(expected.loss[e]));
      CHECK(found.weight[e] == Approx(expected.weight[e]));
    }
  }
}

TEST_CASE("restarted, grad_norm goes on as one that has only its selection factor") {
  if (test_world().rank() != 0) return;
  const BalancerOptions options;
  const auto steps = [](Balancer& balancer, int count) {
    std::vector<float> chosen;
    for (int step = 0; step < count; ++step) {
      const auto loads = [&](const kernels::Selection& selection, std::span<Index> load) {
        for (std::size_t e = 0; e < load.size(); ++e)
          load[e] =
              10 + static_cast<Index>(100 * selection.factor.span<float>()[e] / static_cast<float>(e + 1));
      };
      const kernels::Selection selection = balancer.select_batch(loads, true);
      for (const float factor : selection.factor.span<float>()) chosen.push_back(factor);
      const double late = 1.0 + step;
      balancer.update({std::vector<Index>{40, 30, 20, 10}, std::vector<double>{4 * late, 3, 2, 1},
                       std::vector<double>{1, 1 / late, 1, 2}});
    }
    for (const double weight : balancer.gradient_weights()) chosen.push_back(static_cast<float>(weight));
    return chosen;
  };
  GradNormBalancer used(4, options), kept(4, options), fresh(4, options);
  steps(used, 5);
  steps(kept, 5);
  fresh.state()[0].values.copy_from(used.state()[0].values);  // as a checkpoint's model does
  used.restart();
  fresh.restart();
  const auto expected = steps(fresh, 3);
  CHECK(steps(used, 3) == expected);
  CHECK(steps(kept, 3) != expected);
}

}  // namespace
}  // namespace conclave
