// Products and element-wise functions against their numerical derivatives.
#include <catch2/catch.hpp>

#include "tests/autograd/gradient.h"
#include "tests/core/reference_activation.h"

namespace conclave {
namespace {

TEST_CASE("linear: gradients of input, weight and bias", "[gradient]") {
  struct Size {
    Index rows, in, out;
  };
  for (const auto [rows, in, out] : {Size{1, 1, 1}, Size{5, 7, 3}, Size{0, 3, 2}, Size{66, 1, 2}}) {
    for (const Activation kind : kAllActivations) {
      if (rows > 5 && kind != Activation::silu)
        continue;  // many rows are slow, and one value would lie near the kink of relu
      CAPTURE(rows, in, out, int(kind));
      const Tensor x = random_values({rows, in}, 1), w = random_values({out, in}, 2),
                   b = random_values({out}, 3);
      CHECK(gradient_error(
                [=](Tape& tape, Inputs v) { return functions::linear(tape, v[0], v[1], v[2], kind); },
                {x, w, b}) < kGradientTolerance);
      CHECK(gradient_error(
                [=](Tape& tape, Inputs v) { return functions::linear(tape, v[0], v[1], Tensor(), kind); },
                {x, w}) < kGradientTolerance);
    }
  }
}

TEST_CASE("linear: each of input, weight and bias may be the only one with a gradient", "[gradient]") {
  const Tensor x = kept(random_values({4, 3}, 1)), w = kept(random_values({5, 3}, 2)),
               b = kept(random_values({5}, 3));
  const auto gelu = Activation::gelu;
  CHECK(gradient_error([=](Tape& t, Inputs v) { return functions::linear(t, v[0], w, b, gelu); }, {x}) <
        kGradientTolerance);
  CHECK(gradient_error([=](Tape& t, Inputs v) { return functions::linear(t, x, v[0], b, gelu); }, {w}) <
        kGradientTolerance);
  CHECK(gradient_error([=](Tape& t, Inputs v) { return functions::linear(t, x, w, v[0], gelu); }, {b}) <
        kGradientTolerance);
  const std::vector<Index> offsets{0, 3, 3, 4};
  const Tensor weights = kept(random_values({3, 5, 3}, 4));
  CHECK(gradient_error(
            [=](Tape& t, Inputs v) { return functions::grouped_linear(t, x, offsets, weights, v[0]); },
            {random_values({3, 5}, 5)}) < kGradientTolerance);
}

TEST_CASE("linear: a tensor with several uses accumulates all gradients", "[gradient]") {
  const Tensor square = random_values({4, 4}, 1);
  CHECK(gradient_error([](Tape& t, Inputs v) { return functions::linear(t, v[0], v[0], Tensor()); },
                       {square}) < kGradientTolerance);
  // tied weights: two layers, one weight and bias
  CHECK(gradient_error(
            [](Tape& t, Inputs v) {
              const Tensor inner = functions::linear(t, v[0], v[1], v[2], Activation::silu);
              return functions::linear(t, inner, v[1], v[2]);
            },
            {random_values({3, 4}, 2), square, random_values({4}, 3)}) < kGradientTolerance);
  // the weight is also used outside of a product, before and after
  CHECK(gradient_error(
            [](Tape& t, Inputs v) {
              return functions::add(t, functions::linear(t, v[0], v[1], Tensor()), v[1]);
            },
            {random_values({4, 4}, 2), square}) < kGradientTolerance);
  CHECK(gradient_error(
            [](Tape& t, Inputs v) {
              return functions::linear(t, functions::multiply(t, v[0], v[1]), v[1], Tensor());
            },
            {random_values({4, 4}, 2), square}) < kGradientTolerance);
  CHECK(gradient_error(
            [](Tape& t, Inputs v) {
              return functions::linear(t, functions::add(t, v[0], v[1]), v[1], Tensor());
            },
            {random_values({4, 4}, 2), square}) < kGradientTolerance);
}

TEST_CASE("grouped_linear: gradients with empty groups and every activation", "[gradient]") {
  for (const std::vector<Index>& offsets : {std::vector<Index>{0, 0, 3, 3, 7, 7}, {0, 6}, {0, 0}}) {
    const Index rows = offsets.back(), groups = static_cast<Index>(offsets.size()) - 1;
    for (const Activation kind : kAllActivations) {
      CAPTURE(rows, groups, int(kind));
      CHECK(gradient_error(
                [=](Tape& t, Inputs v) {
                  return functions::grouped_linear(t, v[0], offsets, v[1], v[2], kind);
                },
                {random_values({rows, 3}, 5), random_values({groups, 4, 3}, 6),
                 random_values({groups, 4}, 3)}) < kGradientTolerance);
      CHECK(gradient_error(
                [=](Tape& t, Inputs v) {
                  return functions::grouped_linear(t, v[0], offsets, v[1], Tensor(), kind);
                },
                {random_values({rows, 3}, 5), random_values({groups, 4, 3}, 6)}) < kGradientTolerance);
    }
  }
}

TEST_CASE("matmul: gradients of both factors", "[gradient]") {
  const auto product = [](Tape& t, Inputs v) { return functions::matmul(t, v[0], v[1]); };
  CHECK(gradient_error(product, {random_values({3, 5}, 1), random_values({5, 2}, 2)}) < kGradientTolerance);
  CHECK(gradient_error(product, {random_values({1, 1}, 1), random_values({1, 7}, 2)}) < kGradientTolerance);
  CHECK(gradient_error([](Tape& t, Inputs v) { return functions::matmul(t, v[0], v[0]); },
                       {random_values({4, 4}, 1)}) < kGradientTolerance);
  const Tensor a = kept(random_values({3, 4}, 1)), b = kept(random_values({4, 2}, 2));
  CHECK(gradient_error([=](Tape& t, Inputs v) { return functions::matmul(t, a, v[0]); }, {b}) <
        kGradientTolerance);
  CHECK(gradient_error([=](Tape& t, Inputs v) { return functions::matmul(t, v[0], b); }, {a}) <
        kGradientTolerance);
}

TEST_CASE("activations: gradients", "[gradient]") {
  for (const Shape& shape : {Shape{7}, Shape{2, 3, 4}, Shape{0, 4}})
    for (const Activation kind : kAllActivations)
      CHECK(gradient_error([=](Tape& t, Inputs v) { return functions::activation(t, v[0], kind); },
                           {random_values(shape, 1, DType::f64, 2.0)}) < kGradientTolerance);
}

TEST_CASE("add and multiply: gradients, also of a tensor with itself", "[gradient]") {
  const auto sum = [](Tape& t, Inputs v) { return functions::add(t, v[0], v[v.size() - 1]); };
  const auto product = [](Tape& t, Inputs v) { return functions::multiply(t, v[0], v[v.size() - 1]); };
  const Tensor a = random_values({3, 4}, 1), b = random_values({3, 4}, 2);
  CHECK(gradient_error(sum, {a, b}) < kGradientTolerance);
  CHECK(gradient_error(sum, {a}) < kGradientTolerance);
  CHECK(gradient_error(product, {a, b}) < kGradientTolerance);
  CHECK(gradient_error(product, {a}) < kGradientTolerance);
  const Tensor constant = kept(b);
  CHECK(gradient_error([=](Tape& t, Inputs v) { return functions::add(t, constant, v[0]); }, {a}) <
        kGradientTolerance);
  CHECK(gradient_error([=](Tape& t, Inputs v) { return functions::multiply(t, v[0], constant); }, {a}) <
        kGradientTolerance);
}

TEST_CASE("scale: gradient, also where its input has another use", "[gradient]") {
  const Tensor a = random_values({3, 4}, 1);
  CHECK(gradient_error([](Tape& t, Inputs v) { return functions::scale(t, v[0], -2.5); }, {a}) <
        kGradientTolerance);
  CHECK(gradient_error(
            [](Tape& t, Inputs v) { return functions::multiply(t, functions::scale(t, v[0], 3.0), v[0]); },
            {a}) < kGradientTolerance);
}

TEST_CASE("sum: every element has the gradient of the sum", "[gradient]") {
  CHECK(gradient_error([](Tape& t, Inputs v) { return functions::sum(t, v[0]); },
                       {random_values({5, 3}, 1)}) < kGradientTolerance);
  CHECK(gradient_error(
            [](Tape& t, Inputs v) {
              return functions::multiply(t, functions::sum(t, v[0]), functions::sum(t, v[0]));
            },
            {random_values({4}, 1)}) < kGradientTolerance);
}

TEST_CASE("concatenate: gradients of both parts, also of a tensor beside itself", "[gradient]") {
  const auto beside = [](Tape& t, Inputs v) { return functions::concatenate(t, v[0], v[v.size() - 1]); };
  CHECK(gradient_error(beside, {random_values({3, 2}, 1), random_values({3, 5}, 2)}) < kGradientTolerance);
  CHECK(gradient_error(beside, {random_values({3, 2}, 1)}) < kGradientTolerance);
  Arena arena("test");
  Tape tape(arena);
  CHECK_THROWS_WITH(functions::concatenate(tape, Tensor::zeros({3, 2}), Tensor::zeros({4, 2})),
                    "concatenate: a [3, 2] and b [4, 2] differ in rows or element type");
}

TEST_CASE("residual chains: a gradient that is passed on has only one writer", "[gradient]") {
  // Each add() passes the memory of its gradient on to its last argument, here over several levels and to
  // tensors with several uses.
  CHECK(gradient_error(
            [](Tape& t, Inputs v) {
              const Tensor a = functions::add(t, functions::multiply(t, v[0], v[1]), v[0]);
              const Tensor b = functions::add(t, functions::activation(t, a, Activation::gelu), a);
              const Tensor c = functions::add(t, b, a);
              const Tensor d = functions::add(t, functions::multiply(t, c, b), c);
              return functions::add(t, functions::add(t, d, v[1]), functions::add(t, d, v[0]));
            },
            {random_values({2, 5}, 1), random_values({2, 5}, 2)}) < kGradientTolerance);
}

}  // namespace
}  // namespace conclave
