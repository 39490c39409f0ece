#include <array>
#include <catch2/catch.hpp>
#include <vector>

#include "core/kernels/channels.h"
#include "core/kernels/convolution.h"
#include "core/kernels/depthwise.h"
#include "core/kernels/tile.h"
#include "tests/core/values.h"

namespace conclave::kernels {
namespace {

using Catch::Matchers::Contains;

// Convolution by its definition, in f64: y, and the gradients of x and of weight [out, size, size, in] for
// the gradient dy. Input channel c contributes to output channel o if reaches(o, c).
struct Definition {
  Tensor y, dx, dweight;

  template <class Reaches>
  Definition(const Tensor& x, const Tensor& weight, const Window& window, const Tensor& dy, Reaches reaches)
      : y(Tensor::zeros(dy.shape(), DType::f64)),
        dx(Tensor::zeros(x.shape(), DType::f64)),
        dweight(Tensor::zeros(weight.shape(), DType::f64)) {
    const Tensor x64 = x.to(DType::f64), w64 = weight.to(DType::f64), dy64 = dy.to(DType::f64);
    const Index in = weight.size(3);
    for (Index o = 0; o < y.size(3); ++o)
      for (Index c = 0; c < x.size(3); ++c)
        if (reaches(o, c))
          for (Index n = 0; n < x.size(0); ++n)
            for (Index i = 0; i < y.size(1); ++i)
              for (Index j = 0; j < y.size(2); ++j)
                for (Index a = 0; a < window.size; ++a)
                  for (Index b = 0; b < window.size; ++b) {
                    const Index r = i * window.stride + a - window.padding,
                                s = j * window.stride + b - window.padding;
                    if (r < 0 || r >= x.size(1) || s < 0 || s >= x.size(2)) continue;
                    const Index at = ((n * x.size(1) + r) * x.size(2) + s) * x.size(3) + c,
                                to = ((n * y.size(1) + i) * y.size(2) + j) * y.size(3) + o,
                                w = ((o * window.size + a) * window.size + b) * in + (in == 1 ? 0 : c);
                    y.data<double>()[to] += x64.data<double>()[at] * w64.data<double>()[w];
                    dx.data<double>()[at] += dy64.data<double>()[to] * w64.data<double>()[w];
                    dweight.data<double>()[w] += dy64.data<double>()[to] * x64.data<double>()[at];
                  }
  }
};

struct Size {
  Index images, height, width, in, out;
};

TEMPLATE_TEST_CASE("convolution and its gradients agree with the definition", "[kernels]", float, double) {
  const DType dtype = dtype_of<TestType>;
  for (const auto [images, height, width, in, out] :
       {Size{1, 3, 3, 1, 1}, Size{3, 7, 9, 5, 4}, Size{2, 8, 5, 3, 17}, Size{0, 4, 4, 2, 2}})
    for (const Window window :
         {Window{1, 1, 0}, Window{3, 1, 1}, Window{3, 2, 1}, Window{2, 2, 0}, Window{3, 3, 2}}) {
      CAPTURE(images, height, width, in, out, window.size, window.stride, window.padding);
      const Tensor x = random_values({images, height, width, in}, 1, dtype),
                   w = random_values({out, window.size, window.size, in}, 2, dtype),
                   bias = random_values({out}, 3, dtype),
                   dy = random_values({images, window.positions(height), window.positions(width), out}, 4,
                                      dtype);
      const Definition expected(x, w, window, dy, [](Index, Index) { return true; });
      const Tensor scratch = unwritten({convolution_scratch(x, window)}, dtype);
      const Tensor y = unwritten(dy.shape(), dtype);
      convolution(x, w, Tensor(), window, Activation::none, y, Tensor(), scratch);
      CHECK(distance(y, expected.y) < tolerance<TestType>);

      const Tensor dx = random_values(x.shape(), 5, dtype), start = dx.clone();
      convolution_backward_input(dy, w, window, dx, Write::accumulate, scratch);
      CHECK(distance(dx, plus(start, expected.dx)) < tolerance<TestType>);
      convolution_backward_input(dy, w, window, dx, Write::assign, scratch);
      CHECK(distance(dx, expected.dx) < tolerance<TestType>);

      const Tensor dw = random_values(w.shape(), 6, dtype), before = dw.clone(),
                   dbias = Tensor::zeros({out}, dtype);
      convolution_backward_parameters(dy, x, window, dw, dbias, scratch);
      CHECK(distance(dw, plus(before, expected.dweight)) < 10 * tolerance<TestType>);
    }
}

TEMPLATE_TEST_CASE("depthwise convolution and its gradients agree with the definition", "[kernels]", float,
                   double) {
  const DType dtype = dtype_of<TestType>;
  for (const Index channels : {1, 8, 19, 40})
    for (const auto& [height, width] : {std::pair<Index, Index>{7, 9}, {8, 8}, {13, 17}, {1, 2}})
      for (const Index size : {1, 2, 3, 4, 5, 7})
        for (const Index stride : {1, 2, 3}) {
          const Window window{size, stride, size / 2};
          if (height + 2 * window.padding < size || width + 2 * window.padding < size) continue;
          CAPTURE(channels, height, width, size, stride);
          const Tensor x = random_values({3, height, width, channels}, 1, dtype),
                       w = random_values({size, size, channels}, 2, dtype),
                       dy = random_values({3, window.positions(height), window.positions(width), channels}, 3,
                                          dtype);
          // The definition has a weight [channels, size, size, 1].
          Tensor by_channel = Tensor::zeros({channels, size, size, 1}, dtype);
          const auto swap = [&](const Tensor& from, const Tensor& to, Index rows, Index columns) {
            for (Index i = 0; i < rows; ++i)
              for (Index j = 0; j < columns; ++j)
                to.data<TestType>()[j * rows + i] = from.data<TestType>()[i * columns + j];
          };
          swap(w, by_channel, size * size, channels);
          const Definition expected(x, by_channel, window, dy, [](Index o, Index c) { return o == c; });
          const Tensor y = unwritten(dy.shape(), dtype);
          depthwise(x, w, window, y);
          CHECK(distance(y, expected.y) < tolerance<TestType>);
          const Tensor bias = random_values({channels}, 5, dtype), ended = unwritten(dy.shape(), dtype),
                       followed = unwritten(dy.shape(), dtype);
          depthwise(x, w, window, ended, bias, Activation::hard_swish);
          scale_channels(y, Tensor(), Tensor(), bias.reshape({1, channels}), Activation::hard_swish, followed,
                         Tensor());
          CHECK(same_bits(ended, followed));

          const Tensor dx = random_values(x.shape(), 4, dtype), start = dx.clone();
          depthwise_backward_input(dy, w, window, dx, Write::accumulate);
          CHECK(distance(dx, plus(start, expected.dx)) < tolerance<TestType>);
          depthwise_backward_input(dy, w, window, dx, Write::assign);
          CHECK(distance(dx, expected.dx) < tolerance<TestType>);

          const Tensor dw = Tensor::zeros(w.shape(), dtype),
                       turned = Tensor::zeros(by_channel.shape(), dtype);
          depthwise_backward_weight(dy, x, window, dw,
                                    unwritten({depthwise_parts(3), size, size, channels}, dtype));
          swap(dw, turned, size * size, channels);
          CHECK(distance(turned, expected.dweight) < 10 * tolerance<TestType>);
        }
}

// Of 24 channels (12 for doubles), the first 16 (8) fill a wide vector, where the processor has wide vectors;
// a part of 8 (4) channels alone never fills one.
TEMPLATE_TEST_CASE("a depthwise channel has the same bits whatever the other channels are", "[kernels]",
                   float, double) {
  const DType dtype = dtype_of<TestType>;
  constexpr Index some = kLanes<TestType>, all = 3 * some;
  for (const Index size : {3, 5})
    for (const Index stride : {1, 2}) {
      CAPTURE(size, stride);
      const Window window{size, stride, size / 2};
      const Tensor x = random_values({2, 9, 23, all}, 1, dtype),
                   w = random_values({size, size, all}, 2, dtype),
                   dy = random_values({2, window.positions(9), window.positions(23), all}, 3, dtype);
      const auto run = [&](const Tensor& of_x, const Tensor& of_w, const Tensor& of_dy) {
        const Tensor y = unwritten(of_dy.shape(), dtype), dx = unwritten(of_x.shape(), dtype),
                     dw = Tensor::zeros(of_w.shape(), dtype);
        depthwise(of_x, of_w, window, y);
        depthwise_backward_input(of_dy, of_w, window, dx, Write::assign);
        depthwise_backward_weight(of_dy, of_x, window, dw,
                                  unwritten({depthwise_parts(2), size, size, of_w.size(2)}, dtype));
        return std::array{y, dx, dw};
      };
      const auto together = run(x, w, dy);
      for (Index first = 0; first < all; first += some) {
        const auto part = [&](const Tensor& of) {
          return of.slice(of.rank() - 1, first, first + some).clone();
        };
        const auto alone = run(part(x), part(w), part(dy));
        for (std::size_t i = 0; i < alone.size(); ++i) CHECK(same_bits(part(together[i]), alone[i]));
      }
    }
}

TEST_CASE("windows that do not fit the images are refused", "[kernels]") {
  const Tensor x = Tensor::zeros({1, 2, 8, 3});
  CHECK_THROWS_WITH(window_shape("pooling", x, {3, 1, 0}, 3),
                    Contains("pooling: images of 2 x 8 pixels are smaller than the window of 3"));
  CHECK_THROWS_WITH(window_shape("pooling", x, {3, 0, 1}, 3), Contains("stride 0"));
  CHECK_THROWS_WITH(window_shape("pooling", x, {3, 1, 3}, 3), Contains("padding 3"));
  CHECK_THROWS_WITH(depthwise(x, Tensor::zeros({3, 3, 4}), {3, 1, 1}, Tensor::zeros({1, 2, 8, 3})),
                    Contains("depthwise: weight is f32 [3, 3, 4], expected f32 [3, 3, 3]"));
}

}  // namespace
}  // namespace conclave::kernels
