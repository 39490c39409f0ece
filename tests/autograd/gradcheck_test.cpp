#include <catch2/catch.hpp>
#include <cmath>
#include <limits>

#include "core/kernels/activation.h"
#include "tests/autograd/gradient.h"

namespace conclave {
namespace {

// x^2 with a backward that gives `factor` * x * dy, and NaN for element `broken`; the correct factor is 2.
Tensor square(Tape& tape, const Tensor& x, double factor, Index broken = -1) {
  Tensor y = tape.output(x.shape(), x.dtype(), {&x});
  kernels::multiply(x, x, y);
  tape.record("square", {&x}, {&y}, [=](Tape& tape) {
    const Tensor scaled = tape.empty(x.shape(), x.dtype());
    kernels::scale(x, factor, scaled);
    const auto [dx, write] = tape.into(x);
    kernels::multiply(tape.gradient(y), scaled, dx, write);
    if (broken >= 0) dx.data<double>()[broken] = std::numeric_limits<double>::quiet_NaN();
  });
  return y;
}

TEST_CASE("gradcheck accepts the right gradient", "[gradcheck]") {
  CHECK(gradient_error([](Tape& tape, Inputs in) { return square(tape, in[0], 2.0); },
                       {random_values({4, 3}, 1)}) < 1e-9);
}

TEST_CASE("gradcheck finds a wrong gradient, and where it is", "[gradcheck]") {
  CHECK(gradient_error([](Tape& tape, Inputs in) { return square(tape, in[0], 2.001); },
                       {random_values({4, 3}, 1)}) > 1e-4);
  // The gradient of the first input is right. That of the second is wrong, most of all in its largest
  // element.
  const Tensor second = Tensor::of<double>({3}, {0.1, -3, 0.2});
  const GradcheckResult result = gradcheck(
      [](Tape& tape, Inputs in) {
        return functions::add(tape, square(tape, in[0], 2.0), square(tape, in[1], 1.5));
      },
      {random_values({3}, 1), second});
  CHECK(result.worst > 1e-3);
  CHECK(result.input == 1);
  CHECK(result.element == 1);
  CHECK(result.analytic == Approx(result.numeric * 0.75));
}

TEST_CASE("gradcheck finds a gradient of NaN among finite ones", "[gradcheck]") {
  const GradcheckResult result =
      gradcheck([](Tape& tape, Inputs in) { return square(tape, in[0], 2.001, 2); }, {random_values({5}, 1)});
  CHECK(result.worst == std::numeric_limits<double>::infinity());
  CHECK(result.input == 0);
  CHECK(result.element == 2);
  CHECK(std::isnan(result.analytic));
}

TEST_CASE("gradcheck finds a gradient that was forgotten", "[gradcheck]") {
  const auto detached = [](Tape& tape, Inputs in) {
    Tensor constant = in[0];
    constant.slot = nullptr;
    return functions::multiply(tape, in[0], constant);
  };
  CHECK(gradient_error(detached, {random_values({4}, 1)}) > 1e-2);
}

TEST_CASE("gradcheck gives the inputs back unchanged and refuses f32", "[gradcheck]") {
  const Tensor x = random_values({5}, 1), before = x.clone();
  gradient_error([](Tape& tape, Inputs in) { return square(tape, in[0], 2.0); }, {x});
  CHECK(same_bits(x, before));
  CHECK_THROWS_WITH(gradient_error([](Tape&, Inputs in) { return in[0]; }, {Tensor::zeros({2})}),
                    "gradcheck: inputs must be f64, not f32");
}

}  // namespace
}  // namespace conclave
