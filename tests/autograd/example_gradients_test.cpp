// Norms of per-example gradients and the sum of clipped gradients, against one plain backward pass per
// example.
#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <functional>
#include <numeric>

#include "autograd/nn/layers.h"
#include "autograd/nn/parameter_set.h"
#include "autograd/nn/vision_layers.h"
#include "tests/autograd/gradient.h"

namespace conclave {
namespace {

// A module's forward pass over the rows x of some examples, which `offsets` divides.
using Forward = std::function<Tensor(Tape&, const Tensor& x, const Tensor& offsets)>;

struct ExampleScene {
  ExampleScene(Module& module, Tensor x, std::vector<std::int32_t> offsets)
      : parameters(module, DType::f64, 3), x(std::move(x)), offsets(std::move(offsets)) {
    // Random values, so that no gradient is zero and gains differ from biases.
    std::uint64_t seed = 20;
    for (const Parameter* parameter : parameters.parameters())
      parameter->value.copy_from(random_values(parameter->shape, ++seed));
  }

  Index examples() const { return static_cast<Index>(offsets.size()) - 1; }

  // A forward and backward pass of examples [first, last) only.
  Tensor pass(const Forward& forward, Index first, Index last, ExampleGradients* gradients) {
    Tape tape(arena);
    std::vector<std::int32_t> own(offsets.begin() + first, offsets.begin() + last + 1);
    const std::int32_t begin = own.front(), end = own.back();
    for (std::int32_t& offset : own) offset -= begin;
    const Tensor bounds = arena.empty({last - first + 1}, DType::i32);
    std::ranges::copy(own, bounds.data<std::int32_t>());
    if (gradients) {
      tape.collect_example_gradients(*gradients);
      tape.set_example_rows(gradients->sequences(bounds));
    }
    const Tensor y = forward(tape, x.rows(begin, end), bounds);
    if (y.size(0) == 0) return y;
    const Index each = y.size(0) / std::max(end - begin, 1);
    if (!seed.defined()) seed = kept(random_values(y.shape(), 9));
    tape.backward(y, kept(seed.rows(each * begin, each * end)));
    return y;
  }

  std::vector<double> gradient() const {
    std::vector<double> all;
    for (const Parameter* parameter : parameters.parameters())
      for (const double value : parameter->slot.gradient.span<double>()) all.push_back(value);
    return all;
  }

  ParameterSet parameters;
  Tensor x, seed;
  std::vector<std::int32_t> offsets;
  Arena arena{"test"};
};

void check_apart(Module& module, const Tensor& x, const std::vector<std::int32_t>& offsets,
                 const Forward& forward) {
  ExampleScene scene(module, x, offsets);
  const auto examples = static_cast<std::size_t>(scene.examples());
  scene.pass(forward, 0, scene.examples(), nullptr);  // sets scene.seed
  std::vector<double> norms(examples), sum;
  double mean = 0;
  std::vector<std::vector<double>> gradients;
  for (std::size_t i = 0; i < examples; ++i) {
    scene.parameters.zero_gradients();
    scene.pass(forward, static_cast<Index>(i), static_cast<Index>(i) + 1, nullptr);
    gradients.push_back(scene.gradient());
    for (const double value : gradients.back()) norms[i] += value * value;
    norms[i] = std::sqrt(norms[i]);
    mean += norms[i] / static_cast<double>(examples);
  }
  REQUIRE(mean > 0);
  const double bound = 0.9 * mean;  // clips some examples, not all
  sum.resize(gradients.front().size());
  for (std::size_t i = 0; i < examples; ++i)
    for (std::size_t j = 0; j < sum.size(); ++j)
      sum[j] += gradients[i][j] * (norms[i] > bound ? bound / norms[i] : 1);

  scene.parameters.zero_gradients();
  scene.arena.reset();
  ExampleGradients apart(scene.arena, scene.examples());
  scene.pass(forward, 0, scene.examples(), &apart);
  for (const double value : scene.gradient()) REQUIRE(value == 0);
  std::vector<double> factors(examples);
  for (std::size_t i = 0; i < examples; ++i) {
    CAPTURE(i);
    CHECK(std::sqrt(apart.squares()[i]) == Approx(norms[i]).epsilon(1e-9).margin(1e-12));
  }
  clip_factors(apart.squares(), bound, factors);
  apart.add_clipped(factors);
  const Shape shape{static_cast<Index>(sum.size())};
  CHECK(distance(Tensor::of<double>(shape, scene.gradient()), Tensor::of<double>(shape, sum)) < 1e-9);
}

struct Dense : Module {
  Dense(Index in, Index out, bool bias) : linear(in, out, bias) { add_module("linear", linear); }
  Linear linear;
};

TEST_CASE("linear: per-example norms and clipped sum, by rows and by elements", "[example_gradients]") {
  struct Size {
    Index in, out;
    std::vector<std::int32_t> offsets;
  };
  for (const auto& [in, out, offsets] :
       {Size{7, 5, {0, 1, 2, 3}},             // one row per example
        Size{70, 65, {0, 3, 3, 8, 9, 20}},    // norms from pairs of rows; one example has no rows
        Size{90, 80, {0, 70, 71, 200, 264}},  // more rows than a tile
        Size{200, 70, {0, 90, 91, 92, 93}},   // norms from the gradient's elements, in several tiles
        Size{4, 6, {0, 30, 60, 90}}}) {       // per-example gradients are stored
    for (const bool bias : {false, true})
      for (const Activation activation : {Activation::none, Activation::gelu}) {
        CAPTURE(in, out, bias, int(activation));
        Dense dense(in, out, bias);
        check_apart(
            dense, kept(random_values({offsets.back(), in}, 1)), offsets,
            [&](Tape& tape, const Tensor& x, const Tensor&) { return dense.linear(tape, x, activation); });
      }
  }
}

TEST_CASE("an example that is not finite adds nothing to the clipped sum", "[example_gradients]") {
  for (const double wrong : {HUGE_VAL, -HUGE_VAL, std::nan("")})
    for (const auto& [in, out, rows] : {std::tuple(7, 5, 1), {70, 65, 4}, {4, 6, 30}}) {
      CAPTURE(wrong, in, out, rows);
      Dense dense(in, out, true);
      const std::vector<std::int32_t> offsets{0, rows, 2 * rows, 3 * rows};
      const Tensor x = kept(random_values({3 * rows, in}, 1));
      const Forward forward = [&](Tape& tape, const Tensor& x, const Tensor&) {
        return dense.linear(tape, x);
      };
      ExampleScene scene(dense, x, offsets);
      scene.pass(forward, 0, 3, nullptr);  // for the seed
      scene.parameters.zero_gradients();
      scene.pass(forward, 0, 1, nullptr);
      scene.pass(forward, 2, 3, nullptr);
      const auto expected = scene.gradient();

      x.rows(rows, rows + 1).fill(wrong);
      scene.parameters.zero_gradients();
      scene.arena.reset();
      ExampleGradients apart(scene.arena, 3);
      scene.pass(forward, 0, 3, &apart);
      std::vector<double> factors(3);
      clip_factors(apart.squares(), 1e9, factors);
      CHECK(factors == std::vector<double>{1, 0, 1});
      apart.add_clipped(factors);
      const Shape shape{static_cast<Index>(expected.size())};
      CHECK(distance(Tensor::of<double>(shape, scene.gradient()), Tensor::of<double>(shape, expected)) <
            1e-9);
    }
}

// Layers in sequence: the output of one is the input of the next.
struct Stack : Module {
  Stack() : first(6, 8), second(8, 5), third(5, 3), norm(8), normal(3, {.gelu = true}) {
    add_module("first", first);
    add_module("second", second);
    add_module("third", third);
    add_module("norm", norm);
    add_module("normal", normal);
  }
  Linear first, second, third;
  LayerNorm norm, normal;
};

TEST_CASE("layers in sequence: recorded per-example factors are not overwritten", "[example_gradients]") {
  Stack stack;
  check_apart(stack, kept(random_values({12, 6}, 2)), {0, 2, 7, 7, 12},
              [&](Tape& tape, const Tensor& x, const Tensor&) {
                const Tensor y = stack.second(tape, stack.norm(tape, stack.first(tape, x)));
                return stack.normal(tape, stack.third(tape, y));
              });
  Stack plain;
  check_apart(plain, kept(random_values({90, 6}, 2)), {0, 30, 60, 90},
              [&](Tape& tape, const Tensor& x, const Tensor&) {
                const Tensor y = plain.second(tape, plain.norm(tape, plain.first(tape, x)));
                return plain.normal(tape, plain.third(tape, y));
              });
}

struct Lookup : Module {
  Lookup() : table(9, 6), block(6, 2, 10, 0) {
    add_module("table", table);
    add_module("block", block);
  }
  Embedding table;
  TransformerBlock block;
};

TEST_CASE("embedding and Transformer block: a token that occurs twice counts twice", "[example_gradients]") {
  Lookup lookup;
  // x holds token ids.
  const Tensor x = Tensor::zeros({14, 1}, DType::f64);
  for (Index i = 0; i < 14; ++i) x.data<double>()[i] = static_cast<double>(i * i % 5);
  check_apart(lookup, x, {0, 5, 6, 14}, [&](Tape& tape, const Tensor& rows, const Tensor& offsets) {
    const Tensor ids = tape.empty({rows.size(0)}, DType::i32);
    for (Index i = 0; i < rows.size(0); ++i)
      ids.data<std::int32_t>()[i] = static_cast<std::int32_t>(rows.data<double>()[i]);
    ForwardContext context;
    return lookup.block(tape, context, lookup.table(tape, ids), offsets);
  });
}

TEST_CASE("image layers: per-example norms and clipped sum", "[example_gradients]") {
  const std::vector<std::int32_t> offsets{0, 1, 2, 3};
  const ForwardContext context;
  const Tensor x = kept(random_values({3, 6, 5, 4}, 1));
  for (const bool bias : {false, true})
    for (const Index size : {1, 3}) {
      CAPTURE(bias, size);
      Convolution layer(4, 6, same_window(size, size == 1 ? 1 : 2), bias);
      check_apart(layer, x, offsets, [&](Tape& tape, const Tensor& x, const Tensor&) {
        return layer(tape, x, Activation::silu);
      });
    }
  Depthwise depthwise(4, same_window(3, 1));
  check_apart(depthwise, x, offsets,
              [&](Tape& tape, const Tensor& x, const Tensor&) { return depthwise(tape, x); });
  GroupNorm norm(4, 2);
  check_apart(norm, x, offsets, [&](Tape& tape, const Tensor& x, const Tensor&) {
    return norm(tape, context, x, Activation::hard_swish);
  });
  SqueezeExcite squeeze(4);
  check_apart(squeeze, x, offsets,
              [&](Tape& tape, const Tensor& x, const Tensor&) { return squeeze(tape, x); });
  for (const bool separable : {false, true}) {
    InvertedResidual block({.in = 4,
                            .out = 4,
                            .window = 3,
                            .stride = 1,
                            .expansion = 2,
                            .squeeze_excite = true,
                            .activation = Activation::hard_swish,
                            .depthwise = separable,
                            .norm = {ImageNormOptions::Kind::group, 2}});
    check_apart(block, x, offsets,
                [&](Tape& tape, const Tensor& x, const Tensor&) { return block(tape, context, x); });
  }
}

// Two LSTMs for two groups of rows, as in recurrent experts.
struct Recurrent : Module {
  Recurrent()
      : weight(add_parameter("weight", {2, 12, 4}, Initializer::constant(0))),
        bias(add_parameter("bias", {2, 12}, Initializer::constant(0))),
        recurrent(add_parameter("recurrent", {2, 12, 3}, Initializer::constant(0))) {}
  Parameter &weight, &bias, &recurrent;
};

TEST_CASE("lstm: per-example norms and clipped sum", "[example_gradients]") {
  Recurrent layer;
  check_apart(layer, kept(random_values({11, 4}, 4)), {0, 4, 5, 11},
              [&](Tape& tape, const Tensor& x, const Tensor& offsets) {
                const auto bounds = offsets.span<std::int32_t>();
                const std::vector<Index> sequences(bounds.begin(), bounds.end());
                const std::vector<Index> groups{0, 0, x.size(0)};
                return functions::lstm(
                    tape, functions::grouped_linear(tape, x, groups, layer.weight.value, layer.bias.value),
                    groups, sequences, layer.recurrent.value);
              });
}

TEST_CASE("grouped products: an example has rows of several groups", "[example_gradients]") {
  Recurrent layer;
  ParameterSet parameters(layer, DType::f64, 3);
  layer.weight.value.copy_from(random_values({2, 12, 4}, 1));
  Arena arena("test");
  // Group 0 has rows of examples 1, 0 and 2; group 1 has rows of examples 0 and 2.
  const std::vector<Index> groups{0, 5, 9}, runs{0, 2, 3, 5, 8, 9}, of{1, 0, 2, 0, 2};
  const Tensor x = kept(random_values({9, 4}, 2)), seed = kept(random_values({9, 12}, 3));
  const auto pass = [&](const Tensor& dy, ExampleGradients* apart) {
    parameters.zero_gradients();
    Tape tape(arena);
    if (apart) tape.set_example_rows({{runs}, of, apart});
    tape.backward(functions::grouped_linear(tape, x, groups, layer.weight.value, layer.bias.value), dy);
  };
  const auto gradient = [&] {
    std::vector<double> all;
    for (const Parameter* parameter : {&layer.weight, &layer.bias})
      for (const double value : parameter->slot.gradient.span<double>()) all.push_back(value);
    return all;
  };
  std::vector<double> sum(2 * 12 * 5), squares(3);
  const std::vector<double> factors{0.5, 0.25, 2};
  for (std::size_t example = 0; example < 3; ++example) {
    const Tensor dy = seed.clone();
    for (std::size_t run = 0; run < of.size(); ++run)
      if (of[run] != static_cast<Index>(example)) dy.rows(runs[run], runs[run + 1]).zero();
    pass(dy, nullptr);
    const auto own = gradient();
    for (std::size_t i = 0; i < own.size(); ++i) {
      squares[example] += own[i] * own[i];
      sum[i] += factors[example] * own[i];
    }
  }
  ExampleGradients apart(arena, 3);
  pass(seed, &apart);
  for (std::size_t example = 0; example < 3; ++example)
    CHECK(apart.squares()[example] == Approx(squares[example]).epsilon(1e-12));
  apart.add_clipped(factors);
  const auto clipped = gradient();
  for (std::size_t i = 0; i < sum.size(); ++i) CHECK(clipped[i] == Approx(sum[i]).margin(1e-12));
}

TEST_CASE("uses that do not allow per-example gradients are refused", "[example_gradients]") {
  Dense dense(3, 3, true);
  ParameterSet parameters(dense, DType::f64, 3);
  Arena arena("test");
  const Tensor x = kept(random_values({4, 3}, 1));
  const Tensor offsets = kept_ids({0, 2, 4});
  ExampleGradients apart(arena, 2);
  const auto walk = [&](auto forward, bool with_rows = true) {
    Tape tape(arena);
    tape.collect_example_gradients(apart);
    if (with_rows) tape.set_example_rows(apart.sequences(offsets));
    parameters.zero_gradients();
    tape.backward(forward(tape), x);
  };
  const auto message = [&](auto forward, bool with_rows = true) -> std::string {
    try {
      walk(forward, with_rows);
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  };
  CHECK(message([&](Tape& t) { return dense.linear(t, x); }).empty());
  using Catch::Matchers::Contains;
  CHECK_THAT(message([&](Tape& t) { return dense.linear(t, dense.linear(t, x)); }),
             Contains("used several times"));
  CHECK_THAT(message([&](Tape& t) { return dense.linear(t, x); }, false),
             Contains("the examples of its rows are not known"));
  CHECK_THAT(message([&](Tape& t) { return dense.linear(t, x.rows(0, 3)); }), Contains("3 rows"));
  CHECK_THAT(message([&](Tape& t) { return functions::matmul(t, x, dense.linear.weight().value); }),
             Contains("matmul: it sums the gradients of all examples"));
  const Tensor one = Tensor::zeros({3}, DType::f64);
  const functions::BatchNormState state{.running_mean = one, .running_variance = one};
  BatchNorm norm(3);
  ParameterSet of_norm(norm, DType::f64, 3);
  CHECK_THAT(message([&](Tape& t) { return norm(t, ForwardContext(), x); }),
             Contains("batch_norm: it sums the gradients"));
}

}  // namespace
}  // namespace conclave
