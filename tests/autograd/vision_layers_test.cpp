#include "autograd/nn/vision_layers.h"

#include <catch2/catch.hpp>
#include <cmath>
#include <string>
#include <vector>

#include "autograd/nn/parameter_set.h"
#include "tests/autograd/gradient.h"

namespace conclave {
namespace {

// The gradient error of a block with respect to its images and all of its parameters.
double block_gradient_error(const InvertedResidualOptions& options, bool training) {
  InvertedResidual block(options);
  ParameterSet parameters(block, DType::f64, 1);
  std::vector<Tensor> inputs{random_values({2, 4, 3, options.in}, 1)};
  for (const Parameter* parameter : parameters.parameters()) {
    const Tensor noise = random_values(parameter->shape, static_cast<std::uint32_t>(inputs.size()) + 1);
    inputs.push_back(plus(parameter->value, noise));
  }
  return gradient_error(
      [&](Tape& tape, Inputs v) {
        for (std::size_t i = 0; i < parameters.parameters().size(); ++i)
          parameters.parameters()[i]->value = v[i + 1];
        return block(tape, {.training = training}, v[0]);
      },
      inputs);
}

TEST_CASE("an inverted residual block: gradients of images and all parameters", "[gradient]") {
  for (const bool depthwise : {true, false})
    for (const bool squeeze_excite : {true, false})
      for (const Index stride : {1, 2}) {
        CAPTURE(depthwise, squeeze_excite, stride);
        CHECK(block_gradient_error({.in = 4,
                                    .out = 4,
                                    .stride = stride,
                                    .expansion = 2,
                                    .squeeze_excite = squeeze_excite,
                                    .activation = Activation::silu,
                                    .depthwise = depthwise,
                                    .norm = {.group_channels = 2}},
                                   true) < kGradientTolerance);
      }
}

TEST_CASE("batch-normalized blocks have gradients in training and in inference", "[gradient]") {
  for (const bool training : {true, false}) {
    CAPTURE(training);
    CHECK(block_gradient_error({.in = 3,
                                .out = 5,
                                .expansion = 2,
                                .activation = Activation::gelu,
                                .norm = {.kind = ImageNormOptions::Kind::batch}},
                               training) < kGradientTolerance);
  }
}

TEST_CASE("a block has named parts, and only those that its options need", "[module]") {
  const auto names = [](const InvertedResidual& block) {
    std::vector<std::string> found;
    for (const auto& [name, parameter] : block.named_parameters())
      if (name.ends_with(".weight")) found.push_back(name.substr(0, name.rfind('.')));
    for (const auto& [name, buffer] : block.named_buffers()) found.push_back(name);
    return found;
  };
  using Names = std::vector<std::string>;
  CHECK(names(InvertedResidual({.in = 8, .out = 8, .squeeze_excite = true})) ==
        Names{"expand", "expand_norm", "depthwise", "window_norm", "squeeze_excite.squeeze",
              "squeeze_excite.excite", "project", "project_norm"});
  CHECK(names(InvertedResidual({.in = 8,
                                .out = 8,
                                .expansion = 1,
                                .depthwise = false,
                                .norm = {.kind = ImageNormOptions::Kind::batch}})) ==
        Names{"convolution", "window_norm", "project", "project_norm", "window_norm.running_mean",
              "window_norm.running_var", "project_norm.running_mean", "project_norm.running_var"});
}

TEST_CASE("the running mean and variance change in training, not in the planning pass", "[module]") {
  BatchNorm norm(3);
  const ParameterSet parameters(norm, DType::f32, 1);
  const Tensor mean = parameters.buffers()[0]->values, variance = parameters.buffers()[1]->values;
  const Tensor x = random_values({4, 2, 2, 3}, 1, DType::f32);
  const auto pass = [&](bool training, bool planning) {
    Arena arena("test");
    Tape tape(arena, false);
    if (!planning) tape.stop_planning();
    norm(tape, {.training = training}, x);
  };
  const auto untouched = [&] {
    return distance(mean, Tensor::zeros({3})) == 0 &&
           distance(variance, Tensor::of<float>({3}, {1, 1, 1})) == 0;
  };
  CHECK(untouched());
  pass(true, true);
  pass(false, false);
  CHECK(untouched());
  pass(true, false);
  CHECK_FALSE(untouched());
}

TEST_CASE("batch normalization of half a batch with the sums of both equals the whole", "[module]") {
  BatchNorm norm(3);
  const ParameterSet parameters(norm, DType::f64, 1);
  Arena arena("test");
  Tape tape(arena, false);
  // The other half is this one negated. So the sums over both are 0, and the sums of squares are doubled.
  const Tensor half = random_values({2, 2, 5, 3}, 1), both = Tensor::empty({4, 2, 5, 3}, DType::f64);
  both.rows(0, 2).copy_from(half);
  for (Index i = 0; i < half.numel(); ++i) both.data<double>()[half.numel() + i] = -half.data<double>()[i];
  const ForwardContext context{.global_images = 4, .add_up = [](void*, const Tensor& totals) {
                                 for (Index c = 0; c < 3; ++c) {
                                   totals.data<double>()[c] = 0;
                                   totals.data<double>()[3 + c] *= 2;
                                 }
                               }};
  CHECK(distance(norm(tape, context, half), norm(tape, {}, both).rows(0, 2)) < 1e-12);
}

TEST_CASE("a batch without any image leaves batch normalization as it is", "[module]") {
  BatchNorm norm(3);
  ParameterSet parameters(norm, DType::f64, 1);
  parameters.zero_gradients();
  Arena arena("test");
  Tape tape(arena);
  tape.stop_planning();
  const Tensor x = kept(Tensor::empty({0, 2, 5, 3}, DType::f64));
  const Tensor y = norm(tape, {.training = true}, x);
  CHECK(y.shape() == x.shape());
  tape.backward(y, Tensor::empty({0, 2, 5, 3}, DType::f64));
  for (const auto& [name, buffer] : norm.named_buffers())
    for (const double value : buffer->values.span<double>()) CHECK(value == buffer->start);
  for (const Parameter* parameter : parameters.parameters())
    for (const double value : parameter->slot.gradient.span<double>()) CHECK(value == 0);
}

TEST_CASE("a share without images takes part in batch normalization", "[module]") {
  BatchNorm norm(3);
  ParameterSet parameters(norm, DType::f64, 1);
  parameters.zero_gradients();
  Arena arena("test");
  Tape tape(arena);
  tape.stop_planning();
  int told = 0;
  const ForwardContext context{.training = true,
                               .global_images = 4,
                               .add_up =
                                   [](void* context, const Tensor& totals) {
                                     for (const double value : totals.span<double>()) CHECK(value == 0);
                                     // Sums of the other ranks, for 40 pixels with mean 2 and variance 1.
                                     if ((*static_cast<int*>(context))++ > 0) return;
                                     for (Index c = 0; c < 3; ++c) {
                                       totals.data<double>()[c] = 80;
                                       totals.data<double>()[3 + c] = 200;
                                     }
                                   },
                               .add_up_context = &told};
  const Tensor x = kept(Tensor::empty({0, 2, 5, 3}, DType::f64));
  const Tensor y = norm(tape, context, x);
  CHECK(y.shape() == x.shape());
  tape.backward(y, Tensor::empty({0, 2, 5, 3}, DType::f64));
  CHECK(told == 2);
}

TEST_CASE("in inference, batch normalization is folded into the convolution before it", "[module]") {
  for (const bool depthwise : {true, false})
    for (const Index stride : {1, 2}) {
      CAPTURE(depthwise, stride);
      InvertedResidual block({.in = 3,
                              .out = 3,
                              .stride = stride,
                              .expansion = 2,
                              .squeeze_excite = true,
                              .activation = Activation::hard_swish,
                              .depthwise = depthwise,
                              .norm = {.kind = ImageNormOptions::Kind::batch}});
      const ParameterSet parameters(block, DType::f64, 1);
      for (const Parameter* parameter : parameters.parameters())
        parameter->value.copy_from(random_values(parameter->shape, 7));
      const Tensor x = kept(random_values({4, 5, 6, 3}, 1));
      Arena arena("test");
      Tape apart(arena), folded(arena, false);
      apart.stop_planning();
      block(apart, {.training = true}, x);  // gives the running mean and variance nontrivial values
      // A recording pass does not fold the normalization, because its parameters have gradients.
      const Tensor expected = block(apart, {.training = false}, x);
      const Tensor y = block(folded, {.training = false}, x);
      CHECK(distance(y, expected) < 1e-12);
      CHECK_FALSE(same_bits(y, expected));
    }
}

TEST_CASE("convolutions are initialized with a deviation from their fan-out", "[module]") {
  Convolution convolution(64, 32, same_window(3));
  Depthwise depthwise(4096, same_window(5));
  for (const auto& [layer, expected] :
       {std::pair<Module*, double>{&convolution, 2.0 / (32 * 9)}, {&depthwise, 2.0 / 25}}) {
    const ParameterSet parameters(*layer, DType::f64, 1);
    double squares = 0;
    for (const double value : parameters.parameters()[0]->value.span<double>()) squares += value * value;
    const auto count = static_cast<double>(parameters.parameters()[0]->shape.numel());
    CHECK(squares / count == Approx(expected).epsilon(5 * std::sqrt(2 / count)));
  }
}

TEST_CASE("groups that do not divide the channels and even windows are Errors", "[module]") {
  CHECK_THROWS_WITH(InvertedResidual({.in = 4, .out = 8, .expansion = 3}),
                    "group normalization: groups of 8 channels do not divide 12 channels");
  CHECK_THROWS_WITH(same_window(4), "a window of 4 has no pixel in the middle; its size must be odd");
}

TEST_CASE("in inference, a convolution gives an image the same bits in any batch", "[vision]") {
  for (const kernels::Window& window : {same_window(3), same_window(3, 2), kernels::Window{1, 1, 0}}) {
    Convolution convolution(3, 8, window);
    const ParameterSet parameters(convolution, DType::f32, 1);
    Arena arena("test");
    Tape tape(arena, false);
    const Tensor x = random_values({9, 5, 5, 3}, 2, DType::f32), all = convolution(tape, x);
    for (Index i = 0; i < 9; ++i)
      CHECK(same_bits(convolution(tape, x.rows(i, i + 1).clone()), all.rows(i, i + 1).clone()));
  }
}

}  // namespace
}  // namespace conclave
