#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>

#include "autograd/optim/adamw.h"
#include "tests/core/values.h"

namespace conclave {
namespace {

struct PlainModel : Module {
  Parameter& weight = add_parameter("weight", {3, 4}, Initializer::normal(1));
  Parameter& bias = add_parameter("bias", {5}, Initializer::normal(1), false);
};

TEST_CASE("clipping scales only gradients above the bound", "[optimizer]") {
  CHECK(clip_scale(4, 1) == 0.25);
  CHECK(clip_scale(1, 1) == 1);
  CHECK(clip_scale(0.5, 1) == 1);
  CHECK(clip_scale(0, 1) == 1);
  CHECK(clip_scale(1e9, 0) == 1);  // a bound of 0 turns clipping off
}

TEST_CASE("with no gradient, weights decay and biases stay", "[optimizer]") {
  PlainModel model;
  ParameterSet parameters(model, DType::f64, 1);
  AdamW optimizer(parameters, {.weight_decay = 0.1});
  const Tensor weight = model.weight.value.clone(), bias = model.bias.value.clone();
  optimizer.update(1, 0.5, 1.0);
  for (Index i = 0; i < weight.numel(); ++i)
    CHECK(model.weight.value.data<double>()[i] == Approx(0.95 * weight.data<double>()[i]));
  CHECK(same_bits(model.bias.value, bias));
}

TEST_CASE("the first step is one learning rate against the sign of the gradient", "[optimizer]") {
  for (const double scale : {1.0, 1e-3}) {
    PlainModel model;
    ParameterSet parameters(model, DType::f64, 1);
    AdamW optimizer(parameters, {.epsilon = 1e-12, .weight_decay = 0});
    const Tensor before = model.weight.value.clone();
    for (Index i = 0; i < 12; ++i) model.weight.slot.gradient.data<double>()[i] = i % 2 ? 3.0 : -0.5;
    optimizer.update(1, 0.01, scale);
    for (Index i = 0; i < 12; ++i)
      CHECK(model.weight.value.data<double>()[i] - before.data<double>()[i] == Approx(i % 2 ? -0.01 : 0.01));
    CHECK(optimizer.first_moment(model.weight).shape() == Shape{3, 4});
    CHECK(optimizer.first_moment(model.weight).data<double>()[1] == Approx(0.1 * 3 * scale));
    CHECK(optimizer.second_moment(model.weight).data<double>()[1] == Approx(0.001 * 9 * scale * scale));
    CHECK(distance(optimizer.first_moment(model.bias), Tensor::zeros({5})) == 0);
  }
}

TEST_CASE("the average follows the parameters, closely at first", "[optimizer]") {
  PlainModel model;
  ParameterSet parameters(model, DType::f64, 1);
  AdamW optimizer(parameters, {.weight_decay = 0.1, .ema = 0.9});
  REQUIRE(optimizer.has_average());
  CHECK(same_bits(optimizer.average(model.weight), model.weight.value));
  double expected = model.weight.value.data<double>()[0];
  for (std::int64_t step = 1; step <= 200; ++step) {
    optimizer.update(step, 0.01, 1.0);
    const double decay = std::min(0.9, (1.0 + double(step)) / (10.0 + double(step)));
    expected = decay * expected + (1 - decay) * model.weight.value.data<double>()[0];
    if (step % 50 == 1) CHECK(optimizer.average(model.weight).data<double>()[0] == Approx(expected));
  }
}

TEST_CASE("swapping the average in and out again leaves both as they were", "[optimizer]") {
  PlainModel model;
  ParameterSet parameters(model, DType::f32, 1);
  AdamW optimizer(parameters, {.weight_decay = 0.1, .ema = 0.9});
  optimizer.update(1, 0.5, 1.0);
  const Tensor value = model.weight.value.clone(), average = optimizer.average(model.weight).clone();
  REQUIRE_FALSE(same_bits(value, average));
  optimizer.swap_average();
  CHECK(same_bits(model.weight.value, average));
  CHECK(same_bits(optimizer.average(model.weight), value));
  optimizer.swap_average();
  CHECK(same_bits(model.weight.value, value));
  CHECK(same_bits(optimizer.average(model.weight), average));
}

struct ModelWithBuffers : PlainModel {
  Buffer& mean = add_buffer("mean", {3}, 2);
  Buffer& counted = add_buffer("counted", {2}, 1, true);
  Buffer& variance = add_buffer("variance", {20}, 1);
};

TEST_CASE("the average has the buffers that go with the weights", "[optimizer]") {
  ModelWithBuffers model;
  ParameterSet parameters(model, DType::f64, 1);
  AdamW optimizer(parameters, {.ema = 0.9});
  double expected = 2;
  for (std::int64_t step = 1; step <= 100; ++step) {
    model.mean.values.fill(static_cast<double>(step));
    model.counted.values.fill(static_cast<double>(step));
    optimizer.update(step, 0.01, 1.0);
    const double decay = std::min(0.9, (1.0 + double(step)) / (10.0 + double(step)));
    expected = decay * expected + (1 - decay) * static_cast<double>(step);
  }
  CHECK(optimizer.average(model.mean).shape() == Shape{3});
  for (int i = 0; i < 2; ++i) {  // there and back
    for (const double value : optimizer.average(model.mean).span<double>())
      CHECK(value == (i == 0 ? Approx(expected) : Approx(100)));
    for (const double value : optimizer.average(model.variance).span<double>()) CHECK(value == Approx(1));
    optimizer.swap_average();
    CHECK(model.mean.values.span<double>()[2] == (i == 0 ? Approx(expected) : Approx(100)));
    CHECK(model.counted.values.span<double>()[1] == 100);
  }
  optimizer.restart_average();
  CHECK(same_bits(optimizer.average(model.mean), model.mean.values));
}

TEST_CASE("without an average, swapping does nothing", "[optimizer]") {
  PlainModel model;
  ParameterSet parameters(model, DType::f32, 1);
  AdamW optimizer(parameters, {});
  CHECK_FALSE(optimizer.has_average());
  const Tensor value = model.weight.value.clone();
  optimizer.swap_average();
  CHECK(same_bits(model.weight.value, value));
}

}  // namespace
}  // namespace conclave
