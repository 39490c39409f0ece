#include "core/kernels/integer_convolution.h"

#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>

#include "core/kernels/convolution.h"
#include "core/kernels/depthwise.h"
#include "tests/core/values.h"

namespace conclave::kernels {
namespace {

// Images of integers from 0 to `highest`, with scale 1 and a zero point per image or one for all images, and
// the real values that the integers represent.
struct Images {
  IntegerRows integers;
  Tensor values;  // [images, height, width, channels] f64

  Images(const Shape& shape, int highest, bool one_scale) : values(Tensor::empty(shape, DType::f64)) {
    const Index images = shape[0], size = values.numel() / std::max<Index>(images, 1),
                row = IntegerWeights::row_bytes(size), scales = one_scale ? 1 : images;
    integers = {Tensor::zeros({images, row}, DType::u8), Tensor::empty({scales}), Tensor::empty({scales})};
    integers.scale.fill(1);
    for (Index i = 0; i < scales; ++i)
      integers.zero_point.data<float>()[i] = static_cast<float>((37 * i + 5) % (highest + 1));
    const Tensor drawn = random_values(shape, 1);
    for (Index image = 0; image < images; ++image)
      for (Index i = 0; i < size; ++i) {
        const double from = drawn.data<double>()[image * size + i];
        const auto integer = static_cast<std::uint8_t>(std::fmod(std::fabs(1e4 * from), highest + 1));
        integers.values.data<std::uint8_t>()[image * row + i] = integer;
        values.data<double>()[image * size + i] =
            integer - double{integers.zero_point.data<float>()[one_scale ? 0 : image]};
      }
  }
};

// Whole numbers from -127 to 127.
Tensor whole_numbers(const Shape& shape) {
  const Tensor values = random_values(shape, 2);
  for (double& value : values.span<double>()) value = std::fmod(std::round(1e4 * value), 128);
  return values;
}

TEST_CASE("depthwise convolutions of integers are exact and pad with the zero point", "[kernels]") {
  for (const Window& window :
       {Window{3, 1, 1}, Window{5, 2, 2}, Window{1, 1, 0}, Window{7, 1, 3}, Window{4, 3, 1}})
    for (const Index channels : {1, 9, 40})
      for (const bool one_scale : {false, true}) {
        CAPTURE(window.size, window.stride, channels, one_scale);
        const Images x({3, 9, 11, channels}, one_scale ? 127 : 255, one_scale);
        const Tensor weight = whole_numbers({window.size, window.size, channels});
        const Tensor y = unwritten({3, window.positions(9), window.positions(11), channels}, DType::f32),
                     expected = unwritten(y.shape(), DType::f64), scale = Tensor::empty({channels});
        scale.fill(1);
        depthwise(x.values, weight, window, expected);
        integer_depthwise(x.integers, x.values.shape(), weight.to(DType::f32), scale, window, Tensor(),
                          Activation::none, y);
        CHECK(same_bits(y, expected.to(DType::f32)));
        scale.fill(0.5);
        const Tensor bias = random_values({channels}, 3, DType::f32),
                     ended = unwritten(y.shape(), DType::f32), wanted = unwritten(y.shape(), DType::f64);
        integer_depthwise(x.integers, x.values.shape(), weight.to(DType::f32), scale, window, bias,
                          Activation::relu, ended);
        for (Index i = 0; i < y.numel(); ++i)
          wanted.data<double>()[i] =
              std::max(expected.data<double>()[i] / 2 + bias.data<float>()[i % channels], 0.0);
        CHECK(distance(ended, wanted) < 1e-7);  // sums and halves are exact; only the bias rounds, by 2^-24
      }
  CHECK_THROWS_WITH(integer_depthwise(Images({1, 40, 40, 1}, 127, true).integers, {1, 40, 40, 1},
                                      Tensor::zeros({25, 25, 1}), Tensor::zeros({1}), {25, 1, 12}, Tensor(),
                                      Activation::none, Tensor::zeros({1, 40, 40, 1})),
                    "integer depthwise: sums under a window of 25 are not exact");
}

TEST_CASE("an integer convolution is a product of the unfolded pixels", "[kernels]") {
  for (const Window& window : {Window{3, 1, 1}, Window{3, 2, 1}, Window{5, 1, 2}, Window{2, 2, 0}})
    for (const bool one_scale : {false, true}) {
      CAPTURE(window.size, window.stride, one_scale);
      constexpr Index kIn = 3, kOut = 20;
      const Images x({2, 7, 6, kIn}, 127, one_scale);
      const Tensor weight = whole_numbers({kOut, window.size, window.size, kIn});
      const Tensor expected = unwritten({2, window.positions(7), window.positions(6), kOut}, DType::f64);
      convolution(x.values, weight, Tensor(), window, Activation::none, expected, Tensor(),
                  unwritten({convolution_scratch(x.values, window)}, DType::f64));
      const Index in = window.size * window.size * kIn, rows = expected.numel() / kOut, of_rows[] = {0, rows};
      const IntegerWeights packed = IntegerWeights::empty(1, kOut, in);
      const Tensor ones = Tensor::empty({kOut});
      ones.fill(1);
      pack_weights(weight.to(DType::f32).reshape({1, kOut, in}), ones, QuantLevels::symmetric(8), packed);
      const Shape scales{one_scale ? 1 : rows};
      const IntegerRows unfolded{unwritten({rows, packed.row_bytes()}, DType::u8), Tensor::empty(scales),
                                 Tensor::empty(scales)};
      unfold_integers(x.integers, 127, x.values.shape(), window, unfolded);
      const Tensor y = unwritten({rows, kOut}, DType::f32);
      integer_product(unfolded, 127, of_rows, packed, Tensor(), Activation::none, y);
      CHECK(same_bits(y, expected.to(DType::f32).reshape({rows, kOut})));
    }
}

}  // namespace
}  // namespace conclave::kernels
