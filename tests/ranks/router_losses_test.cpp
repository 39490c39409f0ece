// The losses that are added to the router's gradient only in the backward pass, against numerical derivatives
// of their formulas.
#include <catch2/catch.hpp>
#include <cmath>
#include <functional>
#include <vector>

#include "parallel/moe/router_losses.h"
#include "tests/core/values.h"

namespace conclave {
namespace {

constexpr Index kScoredTokens = 5, kScoredExperts = 4;

std::vector<double> softmax_row(const double* scores) {
  double sum = 0;
  std::vector<double> p;
  for (Index e = 0; e < kScoredExperts; ++e) sum += std::exp(scores[e]);
  for (Index e = 0; e < kScoredExperts; ++e) p.push_back(std::exp(scores[e]) / sum);
  return p;
}

// d loss / d scores by central differences.
Tensor numerical(const Tensor& scores, const std::function<double()>& loss) {
  const Tensor gradient = Tensor::empty(scores.shape(), DType::f64);
  for (Index i = 0; i < scores.numel(); ++i) {
    double& element = scores.data<double>()[i];
    const double before = element;
    const auto at = [&](double offset) {
      element = before + offset;
      const double value = loss();
      element = before;
      return value;
    };
    gradient.data<double>()[i] = (8 * (at(1e-3) - at(-1e-3)) - (at(2e-3) - at(-2e-3))) / 12e-3;
  }
  return gradient;
}

struct ScoredRouter {
  Tensor owner = random_values({kScoredTokens, kScoredExperts}, 1),
         up = random_values({kScoredTokens, kScoredExperts}, 2);
  Tensor offsets = Tensor::of<std::int32_t>({4}, {0, 2, 2, kScoredTokens});  // three texts, one of them empty
  Tensor scores = Tensor::borrow(owner.raw(), owner.shape(), DType::f64);
  Arena arena{"test"};
  Tape tape{arena};
  ForwardContext context;
  ScoredRouter() {
    tape.watch(scores);
    context.global_tokens = 3 * kScoredTokens;  // as if two other ranks had as many tokens
    context.loss_scale = 0.25;
  }
  /// The task's part of the loss: <up, probabilities>.
  double task() const {
    double sum = 0;
    for (Index t = 0; t < kScoredTokens; ++t) {
      const auto p = softmax_row(scores.data<double>() + t * kScoredExperts);
      for (Index e = 0; e < kScoredExperts; ++e)
        sum += up.data<double>()[t * kScoredExperts + e] * p[static_cast<std::size_t>(e)];
    }
    return sum;
  }
};

TEST_CASE("the z-loss is added to the router's gradient, scaled by the share of the step",
          "[router_losses]") {
  ScoredRouter r;
  const Tensor p = route_probabilities(r.tape, r.scores, r.offsets, {.z = 0.7}, r.context);
  r.tape.backward(p, r.up);
  const Tensor expected = numerical(r.scores, [&] {
    double z = 0;
    for (Index t = 0; t < kScoredTokens; ++t) {
      double sum = 0;
      for (Index e = 0; e < kScoredExperts; ++e)
        sum += std::exp(r.scores.data<double>()[t * kScoredExperts + e]);
      z += std::log(sum) * std::log(sum);
    }
    return r.task() + 0.25 * 0.7 * z / (3 * kScoredTokens);
  });
  CHECK(distance(r.tape.gradient(r.scores), expected) < 1e-9);
}

TEST_CASE("the entropy loss is added to the router's gradient", "[router_losses]") {
  ScoredRouter r;
  const Tensor p = route_probabilities(r.tape, r.scores, r.offsets, {.entropy = 0.3}, r.context);
  r.tape.backward(p, r.up);
  const Tensor expected = numerical(r.scores, [&] {
    double entropy = 0;
    for (Index t = 0; t < kScoredTokens; ++t)
      for (const double p : softmax_row(r.scores.data<double>() + t * kScoredExperts))
        entropy -= p * std::log(p);
    return r.task() + 0.25 * 0.3 * entropy / (3 * kScoredTokens);
  });
  CHECK(distance(r.tape.gradient(r.scores), expected) < 1e-9);
}

TEST_CASE("the domain's prior moves its tokens to the domain's expert by its strength", "[router_losses]") {
  ScoredRouter r;
  r.context.in_domain = Tensor::of<std::int32_t>({3}, {0, 1, 1});
  r.context.domain_strength = 0.5;
  const Tensor p =
      route_probabilities(r.tape, r.scores, r.offsets, {.domain = 0.8, .domain_expert = 2}, r.context);
  r.tape.backward(p, r.up);
  const Tensor expected = numerical(r.scores, [&] {
    double surprise = 0;
    for (Index t = 2; t < kScoredTokens; ++t)
      surprise -= std::log(softmax_row(r.scores.data<double>() + t * kScoredExperts)[2]);
    return r.task() + 0.25 * 0.5 * 0.8 * surprise / (3 * kScoredTokens);
  });
  CHECK(distance(r.tape.gradient(r.scores), expected) < 1e-9);
}

TEST_CASE("the domain's prior does not change other texts, or any text at strength 0", "[router_losses]") {
  const auto gradient = [](const Tensor& in_domain, double strength, double weight) {
    ScoredRouter r;
    r.context.in_domain = in_domain;
    r.context.domain_strength = strength;
    const Tensor p = route_probabilities(r.tape, r.scores, r.offsets, {.domain = weight}, r.context);
    r.tape.backward(p, r.up);
    return r.tape.gradient(r.scores).clone();
  };
  const Tensor plain = gradient({}, 0, 0), last = Tensor::of<std::int32_t>({3}, {0, 0, 1});
  const Tensor seeded = gradient(last, 1, 0.8);
  CHECK(same_bits(seeded.rows(0, 2), plain.rows(0, 2)));
  for (const Index row : {2, 3, 4})
    CHECK(distance(seeded.rows(row, row + 1), plain.rows(row, row + 1)) > 1e-3);
  CHECK(same_bits(gradient(last, 0, 0.8), plain));
  CHECK(same_bits(gradient(last, 1, 0), plain));
  CHECK(same_bits(gradient({}, 1, 0.8), plain));
  CHECK(same_bits(gradient(Tensor::of<std::int32_t>({3}, {0, 1, 0}), 1, 0.8), plain));
}

TEST_CASE("the auxiliary loss is added to the router's gradient", "[router_losses]") {
  ScoredRouter r;
  const std::vector<Index> load{9, 0, 2, 4};
  const auto balancer = make_balancer("aux_loss", kScoredExperts, {.aux_coefficient = 0.3});
  const Tensor p = route_probabilities(r.tape, r.scores, r.offsets, {}, r.context);
  const Tensor balanced = balance_probabilities(r.tape, p, *balancer, load, r.context);
  CHECK(same_bits(balanced, p));
  r.tape.backward(balanced, r.up);
  const Tensor expected = numerical(r.scores, [&] {
    double aux = 0;
    for (Index t = 0; t < kScoredTokens; ++t) {
      const auto p = softmax_row(r.scores.data<double>() + t * kScoredExperts);
      for (std::size_t e = 0; e < p.size(); ++e)
        aux += static_cast<double>(load[e]) / 15 * p[e] / (3 * kScoredTokens);
    }
    return r.task() + 0.25 * 0.3 * kScoredExperts * aux;
  });
  CHECK(distance(r.tape.gradient(r.scores), expected) < 1e-9);
}

TEST_CASE("a second backward pass adds each router loss once", "[router_losses]") {
  ScoredRouter r;
  const std::vector<Index> load{9, 0, 2, 4};
  const auto balancer = make_balancer("aux_loss", kScoredExperts, {});
  const Tensor p = route_probabilities(r.tape, r.scores, r.offsets, {.z = 0.7}, r.context);
  const Tensor balanced = balance_probabilities(r.tape, p, *balancer, load, r.context);
  r.tape.backward(balanced, r.up);
  const Tensor once = r.tape.gradient(r.scores).clone();
  r.tape.backward(balanced, r.up);
  CHECK(same_bits(r.tape.gradient(r.scores), once));
}

TEST_CASE("evaluation and a coefficient of zero leave the gradient to the task", "[router_losses]") {
  for (const bool training : {false, true}) {
    ScoredRouter r;
    r.context.training = training;
    r.context.in_domain = Tensor::of<std::int32_t>({3}, {1, 1, 1});
    r.context.domain_strength = 1;
    const Tensor p = route_probabilities(
        r.tape, r.scores, r.offsets, {.z = training ? 0.0 : 0.7, .domain = training ? 0.0 : 0.7}, r.context);
    r.tape.backward(p, r.up);
    CHECK(distance(r.tape.gradient(r.scores), numerical(r.scores, [&] { return r.task(); })) < 1e-9);
  }
}

}  // namespace
}  // namespace conclave
