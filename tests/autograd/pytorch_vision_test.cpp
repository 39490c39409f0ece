// Our layers of images against PyTorch's.
#include <catch2/catch.hpp>

#include "autograd/nn/vision_layers.h"
#include "tests/autograd/pytorch_run.h"

namespace conclave {
namespace {

TEMPLATE_TEST_CASE("convolutions agree with PyTorch's, also of single pixels", "[pytorch]", float, double) {
  struct Kind {
    const char* name;
    kernels::Window window;
    bool bias;
    Activation activation;
  };
  for (const auto& [name, window, bias, activation] :
       {Kind{"convolution", {3, 1, 1}, true, Activation::hard_swish},
        Kind{"convolution_stride", {5, 2, 2}, false, Activation::none},
        Kind{"convolution_pixels", {1, 1, 0}, true, Activation::relu}}) {
    CAPTURE(name);
    const Fixture fixture(name);
    Convolution layer(4, 6, window, bias);
    Run<TestType> run(fixture, layer);
    run.check(layer(run.tape, run.x, activation));
  }
}

TEMPLATE_TEST_CASE("depthwise convolutions agree with PyTorch's", "[pytorch]", float, double) {
  for (const auto& [name, window] :
       {std::pair{"depthwise", same_window(3)}, {"depthwise_stride", same_window(5, 2)}}) {
    CAPTURE(name);
    const Fixture fixture(name);
    Depthwise layer(5, window);
    Run<TestType> run(fixture, layer);
    run.check(layer(run.tape, run.x));
  }
}

TEMPLATE_TEST_CASE("group normalization agrees with PyTorch's", "[pytorch]", float, double) {
  const Fixture fixture("group_norm");
  GroupNorm layer(12, 3);
  Run<TestType> run(fixture, layer);
  run.check(layer(run.tape, {}, run.x, Activation::hard_swish));
}

TEMPLATE_TEST_CASE("batch normalization agrees with PyTorch's, and learns the same mean and variance",
                   "[pytorch]", float, double) {
  const Fixture fixture("batch_norm");
  BatchNorm layer(12);
  Run<TestType> run(fixture, layer);
  const auto& buffers = run.parameters.buffers();
  REQUIRE(buffers.size() == 2);
  CHECK(buffers[0]->name == "running_mean");
  CHECK(buffers[1]->name == "running_var");
  buffers[0]->values.copy_from(fixture("start_mean", dtype_of<TestType>));
  buffers[1]->values.copy_from(fixture("start_var", dtype_of<TestType>));
  for (const std::string step : {"first_", "second_", "inference_"}) {
    CAPTURE(step);
    Tape tape(run.arena);
    tape.stop_planning();
    Tensor x = run.x;
    tape.watch(x);
    run.parameters.zero_gradients();
    const Tensor y = layer(tape, {.training = step != "inference_"}, x, Activation::relu);
    CHECK(distance(y, fixture(step + "y")) < kAgreement<TestType>);
    CHECK(distance(buffers[0]->values, fixture(step + "mean")) < kAgreement<TestType>);
    CHECK(distance(buffers[1]->values, fixture(step + "var")) < kAgreement<TestType>);
    tape.backward(y, fixture("dy", dtype_of<TestType>));
    CHECK(distance(tape.gradient(x), fixture(step + "dx")) < kAgreement<TestType>);
    for (const Parameter* parameter : run.parameters.parameters()) {
      CAPTURE(parameter->name);
      CHECK(distance(parameter->slot.gradient, fixture(step + "d" + parameter->name)) < kAgreement<TestType>);
    }
  }
}

TEMPLATE_TEST_CASE("squeeze and excitation agree with PyTorch's", "[pytorch]", float, double) {
  const Fixture fixture("squeeze_excite");
  SqueezeExcite layer(12);
  Run<TestType> run(fixture, layer);
  run.check(layer(run.tape, run.x));
}

TEMPLATE_TEST_CASE("an inverted residual block with all options agrees with PyTorch", "[pytorch]", float,
                   double) {
  const Fixture fixture("inverted_residual");
  InvertedResidual layer({.in = 4,
                          .out = 4,
                          .window = 5,
                          .squeeze_excite = true,
                          .activation = Activation::hard_swish,
                          .norm = {.group_channels = 2}});
  Run<TestType> run(fixture, layer);
  run.check(layer(run.tape, {}, run.x));
}

TEMPLATE_TEST_CASE("an inverted residual block with a full convolution agrees with PyTorch", "[pytorch]",
                   float, double) {
  const Fixture fixture("inverted_residual_standard");
  InvertedResidual layer({.in = 4,
                          .out = 6,
                          .stride = 2,
                          .expansion = 1,
                          .depthwise = false,
                          .norm = {.kind = ImageNormOptions::Kind::batch}});
  Run<TestType> run(fixture, layer);
  run.check(layer(run.tape, {}, run.x));
}

}  // namespace
}  // namespace conclave
