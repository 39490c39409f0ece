// Gradients of the gate against numerical derivatives. tests/ranks/dispatcher_test.cpp tests the dispatch
// to the experts.
#include <catch2/catch.hpp>

#include "tests/autograd/gradient.h"

namespace conclave {
namespace {

TEST_CASE("top_k_gate: gradients of the weights for one, two and all experts", "[gradient]") {
  const Tensor bias = kept(random_values({5}, 9, DType::f64, 0.1));
  for (const Index k : {1, 2, 5})
    for (const Tensor& selection : {Tensor(), bias}) {
      CAPTURE(k, selection.defined());
      CHECK(gradient_error(
                [=](Tape& t, Inputs v) {
                  return functions::top_k_gate(t, functions::softmax(t, v[0]), {selection, {}}, k).weights;
                },
                {random_values({6, 5}, 1, DType::f64, 2.0)}) < kGradientTolerance);
    }
}

TEST_CASE("top_k_gate: gradients of the weights where top-p chooses few", "[gradient]") {
  for (const double p : {0.3, 0.6, 0.95})
    for (const Index least : {1, 2})
      CHECK(gradient_error(
                [=](Tape& t, Inputs v) {
                  return functions::top_k_gate(t, functions::softmax(t, v[0]), {}, 3, {p, least}).weights;
                },
                {random_values({6, 5}, 1, DType::f64, 2.0)}) < kGradientTolerance);
}

TEST_CASE("top_k_gate: probabilities and weights may have other uses", "[gradient]") {
  CHECK(gradient_error(
            [](Tape& t, Inputs v) {
              const Tensor p = functions::softmax(t, v[0]);
              const Tensor w = functions::top_k_gate(t, p, {}, 2).weights;
              const Tensor again = functions::top_k_gate(t, p, {}, 2).weights;
              return functions::add(t, functions::multiply(t, w, again), w);
            },
            {random_values({4, 4}, 1, DType::f64, 2.0)}) < kGradientTolerance);
}

TEST_CASE("top_k_gate: with one expert, the weight is 1 and its gradient is zero", "[gradient]") {
  Arena arena("test");
  Tape tape(arena);
  Tensor scores = kept(random_values({3, 4}, 1));
  tape.watch(scores);
  const Tensor weights = functions::top_k_gate(tape, functions::softmax(tape, scores), {}, 1).weights;
  CHECK(distance(weights, Tensor::of<double>({3, 1}, {1, 1, 1})) == 0);
  tape.backward(weights, weights);
  CHECK(distance(tape.gradient(scores), Tensor::zeros({3, 4})) < 1e-15);
}

TEST_CASE("split_rows and join_rows: gradients of either part, of both, and of none", "[gradient]") {
  for (const Index at : {0, 2, 5}) {
    CAPTURE(at);
    CHECK(gradient_error(
              [=](Tape& t, Inputs v) {
                const auto [head, tail] = functions::split_rows(t, v[0], at);
                const Tensor moved = functions::join_rows(t, functions::multiply(t, tail, tail), head);
                return functions::multiply(t, moved, functions::add(t, moved, v[0]));
              },
              {random_values({5, 3}, 1)}) < kGradientTolerance);
    for (const bool first : {true, false})
      CHECK(gradient_error(
                [=](Tape& t, Inputs v) {
                  const auto [head, tail] = functions::split_rows(t, v[0], at);
                  return functions::sum(t, first ? functions::multiply(t, head, head) : tail);
                },
                {random_values({5, 3}, 1)}) < kGradientTolerance);
  }
  Arena arena("test");
  Tape tape(arena);
  CHECK_THROWS_WITH(functions::join_rows(tape, Tensor::zeros({1, 2}), Tensor::zeros({1, 3})),
                    "join_rows: head [1, 2] and tail [1, 3] differ in columns or element type");
}

}  // namespace
}  // namespace conclave
