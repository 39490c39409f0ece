#include "core/kernels/integer_product.h"

#include <catch2/catch.hpp>
#include <cmath>
#include <limits>

#include "core/random.h"
#include "tests/core/values.h"

namespace conclave::kernels {
namespace {

// Integers in [lowest, highest]. The two ends are frequent, because they give the largest sums.
template <class T>
Tensor integers(const Shape& shape, std::uint32_t number, int lowest, int highest) {
  const Tensor values = Tensor::empty(shape, dtype_of<T>);
  const RandomStream stream{.seed = 3, .step = 0, .tensor = number};
  std::uint64_t i = 0;
  for (T& value : values.span<T>()) {
    const double drawn = stream.uniform(i++);
    value =
        static_cast<T>(drawn < 0.2   ? lowest
                       : drawn > 0.6 ? highest
                                     : lowest + static_cast<int>((drawn - 0.2) / 0.4 * (highest - lowest)));
  }
  return values;
}

struct ProductCase {
  Index rows, in, out;
  std::vector<Index> offsets;
};
const ProductCase kProductCases[] = {{7, 5, 3, {0, 7}},
                                     {61, 64, 48, {0, 20, 20, 61}},
                                     {1, 1024, 33, {0, 1}},
                                     {300, 37, 150, {0, 280, 299, 300}},
                                     {0, 8, 8, {0, 0}}};

// Packs integer weights with scales of 1.
IntegerWeights packed(const Tensor& weight) {
  const IntegerWeights weights = IntegerWeights::empty(weight.size(0), weight.size(1), weight.size(2));
  const Tensor ones = Tensor::empty({weight.size(0) * weight.size(1)});
  ones.fill(1);
  pack_weights(weight.to(DType::f32), ones, QuantLevels::symmetric(8), weights);
  return weights;
}

TEST_CASE("integer products are exact, on every path that the processor has", "[kernels]") {
  for (const auto& [rows, in, out, offsets] : kProductCases) {
    const auto groups = static_cast<Index>(offsets.size()) - 1;
    const Tensor weight = integers<std::int8_t>({groups, out, in}, 1, -127, 127);
    const IntegerWeights weights = packed(weight);
    for (const int highest : {127, 255}) {
      const Tensor x = integers<std::uint8_t>({rows, in}, 2, 0, highest);
      const Tensor zero = integers<std::uint8_t>({rows}, 3, 0, highest).to(DType::f32), ones = zero.clone();
      ones.fill(1);
      const IntegerRows input{Tensor::zeros({rows, weights.row_bytes()}, DType::u8), ones, zero};
      const Tensor expected = Tensor::zeros({rows, out}, DType::i64);
      for (Index row = 0; row < rows; ++row) {
        Index group = 0;
        while (row >= offsets[static_cast<std::size_t>(group) + 1]) ++group;
        std::copy_n(x.data<std::uint8_t>() + row * in, in,
                    input.values.data<std::uint8_t>() + row * weights.row_bytes());
        for (Index c = 0; c < out; ++c)
          for (Index i = 0; i < in; ++i)
            expected.data<std::int64_t>()[row * out + c] +=
                (x.data<std::uint8_t>()[row * in + i] - static_cast<std::int64_t>(zero.data<float>()[row])) *
                weight.data<std::int8_t>()[(group * out + c) * in + i];
      }
      for (const IntegerPath path : integer_paths()) {
        CAPTURE(rows, in, out, highest, name_of(path));
        const Tensor y = unwritten({rows, out}, DType::f32);
        integer_product(input, highest, offsets, weights, Tensor(), Activation::none, y, path);
        // Sums above 2^24 are rounded once, in the conversion to f32.
        CHECK(same_bits(y, expected.to(DType::f32)));
      }
    }
  }
}

TEST_CASE("inputs are quantized to the integers that fake quantization rounds to", "[kernels]") {
  const Tensor x = random_values({40, 37}, 1, DType::f32, 2);
  const Index row_bytes = IntegerWeights::row_bytes(37);
  for (const QuantLevels levels : {QuantLevels::affine(7), QuantLevels::affine(8)}) {
    for (const bool own : {true, false}) {
      const Tensor scale = Tensor::empty({own ? Index{40} : 1}), zero = scale.clone();
      scale.fill(0.03);
      zero.fill(60);
      const IntegerRows rows{integers<std::uint8_t>({40, row_bytes}, 2, 0, 255), scale, zero};
      (own ? quantize_rows : quantize_by)(x, levels, rows);
      const Tensor rounded = unwritten(x.shape(), DType::f32);
      fake_quantize(x, scale, zero, levels, rounded);
      for (Index row = 0; row < 40; ++row)
        for (Index i = 0; i < row_bytes; ++i) {
          const int q = rows.values.data<std::uint8_t>()[row * row_bytes + i];
          if (i >= 37) {
            CHECK(q == 0);
            continue;
          }
          CHECK(q <= levels.highest);
          const Index of = own ? row : 0;
          CHECK(scale.data<float>()[of] * (static_cast<float>(q) - zero.data<float>()[of]) ==
                rounded.data<float>()[row * 37 + i]);
        }
    }
  }
}

TEST_CASE("an integer product equals that of the rounded numbers, bias and activation too", "[kernels]") {
  for (const auto& [rows, in, out, offsets] : kProductCases) {
    const auto groups = static_cast<Index>(offsets.size()) - 1;
    const Tensor x = random_values({rows, in}, 1, DType::f32),
                 bias = random_values({groups, out}, 2, DType::f32),
                 weight = random_values({groups, out, in}, 3, DType::f32, 0.3);
    const QuantLevels symmetric = QuantLevels::symmetric(8), levels = QuantLevels::affine(7);
    const Index channels = groups * out;
    const Tensor matrix = weight.reshape({channels, in}), low = unwritten({channels}, DType::f32),
                 high = low.clone(), scale = low.clone(), zero = low.clone();
    row_ranges(matrix, low, high);
    range_scales(low, high, symmetric, scale, zero);
    const IntegerWeights weights = IntegerWeights::empty(groups, out, in);
    pack_weights(weight, scale, symmetric, weights);
    const Tensor rounded_weight = unwritten(weight.shape(), DType::f32);
    fake_quantize(matrix, scale, Tensor(), symmetric, rounded_weight.reshape(matrix.shape()));
    const IntegerRows input{Tensor::empty({rows, weights.row_bytes()}, DType::u8), Tensor::empty({rows}),
                            Tensor::empty({rows})};
    quantize_rows(x, levels, input);
    const Tensor rounded = unwritten(x.shape(), DType::f32);
    fake_quantize(x, input.scale, input.zero_point, levels, rounded);
    for (const Activation activation : {Activation::none, Activation::gelu, Activation::relu}) {
      for (const Tensor& some_bias : {bias, Tensor()}) {
        const Tensor expected = unwritten({rows, out}, DType::f32), y = expected.clone();
        grouped_linear(rounded, offsets, rounded_weight, some_bias, activation, expected, Tensor());
        integer_product(input, levels.highest, offsets, weights, some_bias, activation, y);
        CHECK(distance(y, expected) < 2e-5);
        // On every path, the integers for the next product are those that y quantizes to.
        const Index row_bytes = IntegerWeights::row_bytes(out);
        const Tensor next_scale = Tensor::of<float>({1}, {0.05f}), next_zero = Tensor::of<float>({1}, {50});
        const IntegerRows of_y{Tensor::empty({rows, row_bytes}, DType::u8), next_scale, next_zero};
        quantize_by(y, levels, of_y);
        for (const IntegerPath path : integer_paths()) {
          const IntegerRows next{integers<std::uint8_t>({rows, row_bytes}, 4, 0, 255), next_scale, next_zero};
          integer_product(input, levels.highest, offsets, weights, some_bias, activation, next, levels, path);
          CHECK(same_bits(next.values, of_y.values));
        }
      }
    }
  }
}

TEST_CASE("the largest sums do not overflow, on any path", "[kernels]") {
  const Index in = IntegerWeights::kMostInputs, out = 17, offsets[] = {0, 2};
  const Tensor weight = Tensor::empty({1, out, in}, DType::i8);
  for (Index c = 0; c < out; ++c) weight.reshape({out, in}).rows(c, c + 1).fill(c % 2 ? -127 : 127);
  const IntegerWeights weights = packed(weight);
  for (const int highest : {127, 255}) {
    const Tensor ones = Tensor::empty({2}), zero = Tensor::of<float>({2}, {0, static_cast<float>(highest)});
    ones.fill(1);
    const IntegerRows input{Tensor::zeros({2, weights.row_bytes()}, DType::u8), ones, zero};
    input.values.rows(0, 1).fill(highest);  // row 1: 0, and the greatest zero point
    const double largest = 127.0 * highest * static_cast<double>(in);
    for (const IntegerPath path : integer_paths()) {
      CAPTURE(highest, name_of(path));
      const Tensor y = unwritten({2, out}, DType::f32);
      integer_product(input, highest, offsets, weights, Tensor(), Activation::none, y, path);
      for (Index i = 0; i < 2 * out; ++i)
        CHECK(y.data<float>()[i] == static_cast<float>((i / out + i % out) % 2 ? -largest : largest));
    }
  }
}

TEST_CASE("products of rows that are not finite are NaN", "[kernels]") {
  for (const Index in : {5, 37, 64})
    for (const float wrong : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(),
                              -std::numeric_limits<float>::infinity()}) {
      const Tensor x = random_values({3, in}, 1, DType::f32);
      x.data<float>()[2 * in - 1] = wrong;  // in the second row
      const IntegerWeights weights = packed(integers<std::int8_t>({1, 2, in}, 1, -127, 127));
      const IntegerRows rows{Tensor::empty({3, weights.row_bytes()}, DType::u8), Tensor::empty({3}),
                             Tensor::empty({3})};
      quantize_rows(x, QuantLevels::affine(8), rows);
      CHECK(rows.zero_point.data<float>()[1] == 0);
      const Tensor y = unwritten({3, 2}, DType::f32);
      const Index offsets[] = {0, 3};
      integer_product(rows, 255, offsets, weights, Tensor(), Activation::relu, y);
      for (Index i = 0; i < 6; ++i) CHECK(std::isnan(y.data<float>()[i]) == (i / 2 == 1));
      // With scales that are given, there is nothing to tell it by.
      const Tensor one = Tensor::of<float>({1}, {1}), zero = Tensor::of<float>({1}, {3});
      const IntegerRows given{rows.values, one, zero};
      quantize_by(x, QuantLevels::affine(8), given);
      CHECK(int(rows.values.data<std::uint8_t>()[weights.row_bytes() + in - 1]) == (wrong > 0 ? 255 : 0));
    }
}

TEST_CASE("integer products name the argument that does not fit", "[kernels]") {
  const IntegerWeights weights = IntegerWeights::empty(1, 4, 8);
  const Tensor one = Tensor::zeros({1}), y = Tensor::zeros({2, 4});
  const IntegerRows rows{Tensor::zeros({2, weights.row_bytes()}, DType::u8), one, one};
  const std::vector<Index> offsets{0, 3};
  CHECK_THROWS_WITH(integer_product(rows, 127, offsets, weights, Tensor(), Activation::none, y),
                    Catch::Contains("offsets must rise from 0 to 2"));
  CHECK_THROWS_WITH(quantize_by(Tensor::zeros({2, 8}), QuantLevels::symmetric(8), rows),
                    Catch::Contains("do not lie in [0, 255]"));
  CHECK_THROWS_WITH(IntegerWeights::empty(1, 1, 1 << 16), Catch::Contains("may overflow a 32-bit sum"));
}

}  // namespace
}  // namespace conclave::kernels
