#include <cmath>
#include <limits>

#include "core/kernels/activation.h"
#include "core/kernels/integer_convolution.h"
#include "tests/cuda_emulator/twins.h"

namespace conclave {
namespace {

using namespace kernels;
using Tensors = std::vector<Tensor>;

constexpr QuantLevels kSymmetric = QuantLevels::symmetric(8);

Tensor empty_on(Device device, const Shape& shape, DType dtype = DType::f32) {
  return device == Device::cuda ? conclave::cuda::empty_on_device(shape, dtype) : unwritten(shape, dtype);
}

IntegerRows rows_on(Device device, Index rows, Index in, bool one_scale) {
  const Shape scales{one_scale ? 1 : rows};
  return {empty_on(device, {rows, IntegerWeights::row_bytes(in)}, IntegerRows::dtype(device)),
          empty_on(device, scales), empty_on(device, scales)};
}

Tensor on_host(const Tensor& tensor) {
  return tensor.device() == Device::cuda ? conclave::cuda::to_host(tensor) : tensor;
}

// Gives all rows the same scale, and a zero point within the levels.
void give_scales(const IntegerRows& rows, QuantLevels levels, double scale) {
  rows.scale.fill(scale);
  rows.zero_point.fill((levels.lowest + levels.highest) / 3);
}

IntegerRows quantized(const Tensor& x, QuantLevels levels, bool one_scale) {
  const IntegerRows rows = rows_on(x.device(), x.size(0), x.size(1), one_scale);
  if (one_scale) give_scales(rows, levels, 0.03);
  (one_scale ? quantize_by : quantize_rows)(x, levels, rows);
  return rows;
}

// The integers of `rows` in the processor's form. A device stores them shifted to the signed range, except
// for the zeros that pad a row.
std::vector<int> integers_of(const IntegerRows& rows, Index in, std::int32_t highest) {
  const Tensor values = on_host(rows.values);
  const bool device = rows.values.device() == Device::cuda;
  std::vector<int> integers;
  for (Index row = 0; row < values.size(0); ++row)
    for (Index i = 0; i < values.size(1); ++i) {
      const Index at = row * values.size(1) + i;
      integers.push_back(device ? values.data<std::int8_t>()[at] + (i < in ? signed_shift(highest) : 0)
                                : values.data<std::uint8_t>()[at]);
    }
  return integers;
}

TEST_CASE("rows are quantized to the same integers on device and processor") {
  Shapes shapes(21);
  for (int round = 0; round < 12; ++round) {
    const Index rows = shapes.between(0, 20), in = shapes.columns();
    const Tensor x = random_values({rows, in}, 1, DType::f32, 2);
    for (const QuantLevels levels : {QuantLevels::affine(7), QuantLevels::affine(8)})
      for (const bool one_scale : {true, false}) {
        CAPTURE(rows, in, levels.highest, one_scale);
        const IntegerRows expected = quantized(x, levels, one_scale);
        for (const bool off_bounds : {false, true}) {
          const IntegerRows actual = quantized(
              off_bounds ? to_device_off_bounds(x) : conclave::cuda::to_device(x), levels, one_scale);
          CHECK(integers_of(actual, in, levels.highest) == integers_of(expected, in, levels.highest));
          CHECK(same_bits(on_host(actual.scale), expected.scale));
          CHECK(same_bits(on_host(actual.zero_point), expected.zero_point));
        }
        REQUIRE(emulator::take_report() == "");
      }
  }
}

TEST_CASE("rows that are not finite have the scale NaN, on the device, too") {
  for (const Index in : {5, 37, 700})
    for (const float wrong :
         {std::numeric_limits<float>::quiet_NaN(), -std::numeric_limits<float>::infinity()}) {
      const Tensor x = random_values({3, in}, 1, DType::f32);
      x.data<float>()[2 * in - 1] = wrong;  // in the second row
      for (const Tensor& of : {x, conclave::cuda::to_device(x)}) {
        const IntegerRows rows = quantized(of, QuantLevels::affine(8), false);
        const Tensor scale = on_host(rows.scale), zero = on_host(rows.zero_point);
        for (Index row = 0; row < 3; ++row) CHECK(std::isnan(scale.data<float>()[row]) == (row == 1));
        CHECK(std::isfinite(zero.data<float>()[1]));
      }
    }
  REQUIRE(emulator::take_report() == "");
}

// Packs a weight with a scale for each channel.
IntegerWeights packed(const Tensor& weight) {
  const Index channels = weight.size(0) * weight.size(1);
  const Device device = weight.device();
  const Tensor low = empty_on(device, {channels}), high = empty_on(device, {channels}),
               scale = empty_on(device, {channels}), zero = empty_on(device, {channels});
  row_ranges(weight.reshape({channels, weight.size(2)}), low, high);
  range_scales(low, high, kSymmetric, scale, zero);
  const IntegerWeights weights =
      IntegerWeights::empty(weight.size(0), weight.size(1), weight.size(2), device);
  pack_weights(weight, scale, kSymmetric, weights);
  return weights;
}

struct Case {
  std::vector<Index> offsets;
  Index in, out;
};

std::vector<Case> cases() {
  std::vector<Index> many(261);  // more groups than one launch takes
  for (std::size_t g = 0; g < many.size(); ++g) many[g] = static_cast<Index>(g / 20);
  return {{{0, 13}, 20, 32},      {{0, 61}, 37, 48},     {{0, 5}, 7, 0},
          {{0, 0}, 7, 3},         {{0, 9, 9, 12}, 0, 5}, {{0, 6, 6, 11}, 33, 70},
          {{0, 66}, 2, 1029},     {{0, 7}, 3, 1032},     {{0, 3, 3, 70, 71, 71}, 12, 8},
          {std::move(many), 3, 5}};
}

TEST_CASE("integer products on the device agree with the processor") {
  for (const auto& [offsets, in, out] : cases()) {
    const Index rows = offsets.back(), groups = static_cast<Index>(offsets.size()) - 1;
    const Tensor x = random_values({rows, in}, 1, DType::f32, 2),
                 weight = random_values({groups, out, in}, 2, DType::f32),
                 bias = random_values({groups, out}, 3, DType::f32);
    for (const QuantLevels levels : {QuantLevels::affine(7), QuantLevels::affine(8)})
      for (const bool one_scale : {true, false}) {
        INFO(groups << " groups of " << rows << " rows, in " << in << ", out " << out << ", up to "
                    << levels.highest << (one_scale ? ", one scale" : ""));
        const Activation activation = levels.highest > 127 ? Activation::relu : Activation::gelu;
        compare_twins<float>({unwritten({rows, out}, DType::f32), x, weight, one_scale ? bias : Tensor{}},
                             [&](const Tensors& t) {
                               integer_product(quantized(t[1], levels, one_scale), levels.highest, offsets,
                                               packed(t[2]), t[3], activation, t[0]);
                             });
      }
  }
}

TEST_CASE("integer products with every activation, of rows of every width") {
  const QuantLevels levels = QuantLevels::affine(7);
  const std::vector<Index> offsets{0, 2, 5};
  for (const Activation activation : {Activation::none, Activation::relu, Activation::gelu, Activation::silu,
                                      Activation::hard_swish, Activation::hard_sigmoid})
    for (const Index out : {5, 8, 1029, 1032}) {  // for a warp or a block, with and without aligned quads
      CAPTURE(static_cast<int>(activation), out);
      const Tensor x = random_values({5, 3}, 1, DType::f32, 2),
                   weight = random_values({2, out, 3}, 2, DType::f32),
                   bias = random_values({2, out}, 3, DType::f32);
      compare_twins<float>({unwritten({5, out}, DType::f32), x, weight, bias}, [&](const Tensors& t) {
        integer_product(quantized(t[1], levels, false), levels.highest, offsets, packed(t[2]), t[3],
                        activation, t[0]);
      });
      const IntegerRows rows = quantized(conclave::cuda::to_device(x), levels, false);
      const IntegerWeights weights = packed(conclave::cuda::to_device(weight));
      const Tensor biases = conclave::cuda::to_device(bias), y = conclave::cuda::empty_on_device({5, out});
      const IntegerRows expected = rows_on(Device::cuda, 5, out, true),
                        next = rows_on(Device::cuda, 5, out, true);
      for (const IntegerRows* of : {&expected, &next}) give_scales(*of, levels, 0.05);
      integer_product(rows, levels.highest, offsets, weights, biases, activation, y);
      quantize_by(y, levels, expected);
      integer_product(rows, levels.highest, offsets, weights, biases, activation, next, levels);
      CHECK(integers_of(next, out, levels.highest) == integers_of(expected, out, levels.highest));
    }
  for (const Index in : {1029, 1032}) {  // long rows of weights
    CAPTURE(in);
    compare_twins<float>({unwritten({2, 3}, DType::f32), random_values({2, in}, 1, DType::f32, 2),
                          random_values({1, 3, in}, 2, DType::f32)},
                         [&](const Tensors& t) {
                           integer_product(quantized(t[1], levels, false), levels.highest,
                                           std::vector<Index>{0, 2}, packed(t[2]), Tensor{}, Activation::none,
                                           t[0]);
                         });
  }
}

TEST_CASE("a product to integers on the device equals quantizing its result") {
  for (const auto& [offsets, in, out] : cases()) {
    const Index rows = offsets.back(), groups = static_cast<Index>(offsets.size()) - 1;
    for (const QuantLevels levels : {QuantLevels::affine(7), QuantLevels::affine(8)}) {
      INFO(groups << " groups of " << rows << " rows, in " << in << ", out " << out << ", up to "
                  << levels.highest);
      const IntegerRows x =
          quantized(conclave::cuda::to_device(random_values({rows, in}, 1, DType::f32, 2)), levels, false);
      const IntegerWeights weights =
          packed(conclave::cuda::to_device(random_values({groups, out, in}, 2, DType::f32)));
      const Tensor bias = conclave::cuda::to_device(random_values({groups, out}, 3, DType::f32)),
                   y = conclave::cuda::empty_on_device({rows, out});
      const IntegerRows expected = rows_on(Device::cuda, rows, out, true),
                        next = rows_on(Device::cuda, rows, out, true);
      for (const IntegerRows* of : {&expected, &next}) give_scales(*of, levels, 0.05);
      integer_product(x, levels.highest, offsets, weights, bias, Activation::silu, y);
      quantize_by(y, levels, expected);
      integer_product(x, levels.highest, offsets, weights, bias, Activation::silu, next, levels);
      CHECK(same_bits(on_host(next.values), on_host(expected.values)));
      REQUIRE(emulator::take_report() == "");
    }
  }
}

TEST_CASE("unfolding of windows on the device agrees with the processor") {
  for (const Window& window : {Window{3, 1, 1}, Window{3, 2, 1}, Window{5, 1, 2}, Window{2, 2, 0}})
    for (const QuantLevels levels : {QuantLevels::affine(7), QuantLevels::affine(8)})
      for (const bool one_scale : {true, false}) {
        CAPTURE(window.size, window.stride, levels.highest, one_scale);
        const Shape images{3, 7, 6, 5};
        const Index pixels = 7 * 6 * 5, in = window.size * window.size * 5,
                    rows = 3 * window.positions(7) * window.positions(6);
        const auto unfolded = [&](const Tensor& x) {
          const IntegerRows of_windows = rows_on(x.device(), rows, in, one_scale);
          unfold_integers(quantized(x, levels, one_scale), levels.highest, images, window, of_windows);
          return of_windows;
        };
        const Tensor x = random_values({3, pixels}, 1, DType::f32);
        const IntegerRows expected = unfolded(x), actual = unfolded(conclave::cuda::to_device(x));
        CHECK(integers_of(actual, in, levels.highest) == integers_of(expected, in, levels.highest));
        CHECK(same_bits(on_host(actual.scale), expected.scale));
        CHECK(same_bits(on_host(actual.zero_point), expected.zero_point));
        REQUIRE(emulator::take_report() == "");
      }
}

TEST_CASE("repeated integer products allocate nothing on the device") {
  const IntegerRows x = quantized(conclave::cuda::to_device(random_values({9, 20}, 1, DType::f32)),
                                  QuantLevels::affine(7), false);
  const IntegerWeights weights = packed(conclave::cuda::to_device(random_values({2, 24, 20}, 2, DType::f32)));
  const Tensor y = conclave::cuda::empty_on_device({9, 24});
  const std::vector<Index> offsets{0, 4, 9};
  const auto product = [&] {
    integer_product(x, 127, offsets, weights, Tensor(), Activation::none, y);
    conclave::cuda::synchronize();
  };
  product();
  const emulator::Counters before = emulator::counters();
  product();
  CHECK(emulator::counters().allocations == before.allocations);
  CHECK(emulator::counters().algorithms == before.algorithms);
  CHECK(emulator::counters().launches - before.launches ==
        3);  // one product for each group, and one kernel for the outputs of both
}

TEST_CASE("unsupported integer operations on the device are refused") {
  const IntegerRows x = rows_on(Device::cuda, 2, 9, true);
  const Tensor y = conclave::cuda::empty_on_device({2, 1, 1, 9}),
               ones = conclave::cuda::empty_on_device({1, 1, 9});
  CHECK_THROWS_WITH(integer_depthwise(x, {2, 1, 1, 9}, ones, y, {1, 1, 0}, Tensor(), Activation::none, y),
                    Catch::Contains("integer depthwise: runs on the CPU only"));
  const IntegerWeights weights = IntegerWeights::empty(1, 9, 9);
  const std::vector<Index> offsets{0, 2};
  CHECK_THROWS_WITH(integer_product(x, 127, offsets, weights, Tensor(), Activation::none, y.reshape({2, 9})),
                    Catch::Contains("some tensors are on cuda, others on cpu"));
}

}  // namespace
}  // namespace conclave
