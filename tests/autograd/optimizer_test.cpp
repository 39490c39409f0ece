#include <catch2/catch.hpp>
#include <cmath>

#include "autograd/optim/adamw.h"
#include "tests/core/values.h"

namespace conclave {
namespace {

struct Model : Module {
  Parameter& weight = add_parameter("weight", {3, 4}, Initializer::normal(1));
  Parameter& bias = add_parameter("bias", {5}, Initializer::normal(1), false);
};

TEST_CASE("a schedule warms up linearly from zero to its peak", "[optimizer]") {
  for (const auto kind : {Schedule::Kind::constant, Schedule::Kind::linear, Schedule::Kind::cosine}) {
    const Schedule schedule{.kind = kind, .peak = 2, .final = 0.5, .warmup_steps = 10, .total_steps = 110};
    CHECK(schedule.at(0) == 0);
    CHECK(schedule.at(1) == Approx(0.2));
    CHECK(schedule.at(5) == Approx(1));
    CHECK(schedule.at(10) == Approx(2));
  }
}

TEST_CASE("a schedule goes from its peak to its final rate and stays there", "[optimizer]") {
  Schedule schedule{
      .kind = Schedule::Kind::linear, .peak = 2, .final = 0.5, .warmup_steps = 10, .total_steps = 110};
  CHECK(schedule.at(35) == Approx(2 - 1.5 * 0.25));
  CHECK(schedule.at(110) == Approx(0.5));
  CHECK(schedule.at(500) == Approx(0.5));
  schedule.kind = Schedule::Kind::cosine;
  CHECK(schedule.at(35) == Approx(0.5 + 1.5 * 0.5 * (1 + std::sqrt(0.5))));  // cos(pi / 4)
  CHECK(schedule.at(60) == Approx(1.25));
  CHECK(schedule.at(110) == Approx(0.5));
  CHECK(schedule.at(500) == Approx(0.5));
  schedule.kind = Schedule::Kind::constant;
  CHECK(schedule.at(11) == 2);
  CHECK(schedule.at(500) == 2);
}

TEST_CASE("a schedule without warm-up, or all warm-up, is finite", "[optimizer]") {
  const Schedule cold{.kind = Schedule::Kind::cosine, .peak = 1, .warmup_steps = 0, .total_steps = 4};
  CHECK(cold.at(1) == Approx(0.5 * (1 + std::cos(M_PI / 4))));
  CHECK(cold.at(4) == Approx(0).margin(1e-15));
  const Schedule warm{.kind = Schedule::Kind::linear, .peak = 1, .warmup_steps = 4, .total_steps = 4};
  CHECK(warm.at(4) == 1);
  CHECK(warm.at(5) == 0);
}

TEST_CASE("schedules are found by name", "[optimizer]") {
  CHECK(schedule_from("cosine") == Schedule::Kind::cosine);
  CHECK(schedule_from("linear") == Schedule::Kind::linear);
  CHECK(schedule_from("constant") == Schedule::Kind::constant);
  CHECK_THROWS_WITH(schedule_from("step"), "no schedule is named 'step'; there are constant, linear, cosine");
}

TEST_CASE("clipping scales only what is too long", "[optimizer]") {
  CHECK(clip_scale(4, 1) == 0.25);
  CHECK(clip_scale(1, 1) == 1);
  CHECK(clip_scale(0.5, 1) == 1);
  CHECK(clip_scale(0, 1) == 1);
  CHECK(clip_scale(1e9, 0) == 1);  // off
}

TEST_CASE("with no gradient, weights decay and biases stay", "[optimizer]") {
  Model model;
  ParameterSet parameters(model, DType::f64, 1);
  AdamW optimizer(parameters, {.weight_decay = 0.1});
  const Tensor weight = model.weight.value.clone(), bias = model.bias.value.clone();
  optimizer.update(1, 0.5, 1.0);
  for (Index i = 0; i < weight.numel(); ++i)
    CHECK(model.weight.value.data<double>()[i] == Approx(0.95 * weight.data<double>()[i]));
  CHECK(same_bits(model.bias.value, bias));
}

TEST_CASE("the first step goes one learning rate against the gradient's sign, whatever its scale",
          "[optimizer]") {
  for (const double scale : {1.0, 1e-3}) {
    Model model;
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
  Model model;
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
  Model model;
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

TEST_CASE("without an average, swapping does nothing", "[optimizer]") {
  Model model;
  ParameterSet parameters(model, DType::f32, 1);
  AdamW optimizer(parameters, {});
  CHECK_FALSE(optimizer.has_average());
  const Tensor value = model.weight.value.clone();
  optimizer.swap_average();
  CHECK(same_bits(model.weight.value, value));
}

}  // namespace
}  // namespace conclave
