// Fake quantization. Its gradient is not a derivative, so most tests compare it with PyTorch's. Where a
// number is clamped, the result is proportional to the scale, and a test compares with the numerical
// derivative.
#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>

#include "tests/autograd/gradient.h"
#include "tests/fixtures/fixture.h"

namespace conclave {
namespace {

TEST_CASE("fake_quantize agrees with PyTorch's, by channel and with a learned scale", "[pytorch]") {
  const Fixture fixture("fake_quantize");
  const auto f32 = [&](const std::string& name) { return kept(fixture(name, DType::f32)); };
  struct Case {
    std::string name;
    QuantLevels levels;
  };
  for (const auto& [name, levels] : {Case{"signed", QuantLevels::symmetric(8)},
                                     {"unsigned", QuantLevels::affine(7)},
                                     {"learned", QuantLevels::affine(7)}}) {
    CAPTURE(name);
    const bool learned = name == "learned";
    Arena arena("test");
    Tape tape(arena);
    Tensor x = f32("x"), scale = f32(name + "_scale");
    tape.watch(x);
    if (learned) tape.watch(scale);
    const Tensor y = functions::fake_quantize(tape, x, scale, f32(name + "_zero_point"), levels);
    CHECK(distance(y, fixture(name + "_y")) < 1e-6);
    tape.backward(y, f32("dy"));
    CHECK(distance(tape.gradient(x), fixture(name + "_dx")) < 1e-6);
    if (learned) CHECK(distance(tape.gradient(scale), fixture("learned_dscale")) < 1e-5);
  }
}

// All numbers are beyond the range, where the result is the scale times the end of the range. (Within the
// range, the gradient of the scale is a convention.) With one number per scale and 1 as the highest level,
// LSQ's factor is 1.
TEST_CASE("fake_quantize: the scale's gradient where numbers are clamped", "[gradient]") {
  const Tensor x = kept(Tensor::of<double>({4, 1}, {9, -9, 7, -2})),
               zero = kept(Tensor::zeros({4}, DType::f64));
  for (const Tensor& zero_point : {Tensor(), zero})
    CHECK(gradient_error(
              [=](Tape& t, Inputs v) {
                return functions::fake_quantize(t, x, v[0], zero_point, {-1, 1});
              },
              {Tensor::of<double>({4}, {0.5, 0.7, 1.1, 0.9})}) < kGradientTolerance);
}

TEST_CASE("fake_quantize_rows takes each row's own range, and passes gradients on", "[gradient]") {
  Arena arena("test");
  Tape tape(arena);
  Tensor x = kept(random_values({7, 33}, 1, DType::f32, 3));
  tape.watch(x);
  for (const QuantLevels levels : {QuantLevels::symmetric(8), QuantLevels::affine(7)}) {
    const Tensor y = functions::fake_quantize_rows(tape, x, levels);
    for (Index row = 0; row < 7; ++row) {
      const auto given = x.rows(row, row + 1).span<float>(), got = y.rows(row, row + 1).span<float>();
      const auto [low, high] = std::ranges::minmax(given);
      const double step = levels.is_symmetric() ? std::max(-low, high) / 127. : (high - low) / 127.;
      for (std::size_t i = 0; i < given.size(); ++i)
        CHECK(std::fabs(double(given[i]) - double(got[i])) <=
              0.5001 * step + (levels.is_symmetric() ? 0 : 0.5 * step));
    }
  }
  const Tensor y = functions::fake_quantize_rows(tape, x, QuantLevels::symmetric(8)),
               dy = kept(random_values({7, 33}, 2, DType::f32));
  tape.backward(y, dy);
  CHECK(same_bits(tape.gradient(x), dy));
}

}  // namespace
}  // namespace conclave
