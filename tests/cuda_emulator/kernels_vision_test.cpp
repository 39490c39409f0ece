#include <algorithm>

#include "core/kernels/channels.h"
#include "core/kernels/convolution.h"
#include "core/kernels/depthwise.h"
#include "core/kernels/image_norm.h"
#include "tests/core/reference_activation.h"
#include "tests/cuda_emulator/precision_scope.h"
#include "tests/cuda_emulator/twins.h"

namespace conclave {
namespace {

using namespace kernels;
using Tensors = std::vector<Tensor>;

// A number of channels: a multiple of 4 or not, for one block or for several.
Index some_channels(Shapes& shapes) {
  return shapes.between(0, 1) ? 4 * shapes.between(1, 40) : shapes.between(1, 40);
}

TEMPLATE_TEST_CASE("statistics of channels on the device agree with the processor", "", float, double) {
  using T = TestType;
  constexpr DType kType = dtype_of<T>;
  Shapes shapes(21);
  // No images; no pixels; one pixel; so many pixels that an image is divided into parts.
  std::vector<Shape> all{{0, 3, 3, 4}, {2, 0, 5}, {3, 1, 8}, {1, 23, 19, 12}, {2, 300, 3}};
  for (int round = 0; round < 4; ++round)
    all.push_back({shapes.between(1, 4), shapes.between(1, 9), shapes.between(1, 9), some_channels(shapes)});
  for (const Shape& shape : all) {
    const Shape table{shape[0], shape[shape.rank() - 1]};
    const Tensor x = random_values(shape, 1, kType), dz = random_values(shape, 2, kType),
                 far = x.clone();  // so far from zero that the mean matters
    for (T& value : far.template span<T>()) value += T(3);
    compare_twins<T>({far, unwritten(table, kType), unwritten(table, kType)},
                     [](const Tensors& t) { channel_moments(t[0], t[1], t[2]); });
    for (const Index rows : {table[0], Index{1}})
      compare_twins<T>({x, dz, random_values({rows, table[1]}, 3, kType), unwritten(table, kType),
                        unwritten(table, kType), unwritten(table, kType)},
                       [](const Tensors& t) {
                         channel_dots(t[1], t[0], t[2], t[3], t[4]);
                         channel_dots(t[1], t[0], {}, {}, t[5]);
                       });
    for (const Activation kind : kAllActivations)
      for (const Index rows : {table[0], Index{1}})
        compare_twins<T>({x, dz.clone(), random_values({rows, table[1]}, 3, kType),
                          random_values({rows, table[1]}, 4, kType), random_values({1, table[1]}, 5, kType),
                          unwritten(table, kType), unwritten(table, kType)},
                         [&](const Tensors& t) {
                           channel_dots(t[1], t[0], t[2], t[5], t[6], {t[3], t[4], kind});
                         });
  }
}

TEMPLATE_TEST_CASE("scaling of channels on the device agrees with the processor", "", float, double) {
  using T = TestType;
  constexpr DType kType = dtype_of<T>;
  Shapes shapes(22);
  std::vector<Shape> all{{0, 3, 3, 4}, {2, 0, 5}, {2, 13, 11, 144}};
  for (int round = 0; round < 4; ++round)
    all.push_back({shapes.between(1, 4), shapes.between(1, 9), shapes.between(1, 9), some_channels(shapes)});
  for (const Shape& shape : all) {
    const Index channels = shape[shape.rank() - 1];
    const Tensor x = random_values(shape, 1, kType), dz = random_values(shape, 2, kType);
    for (const Index rows : {shape[0], Index{1}}) {
      const auto table = [&](std::uint32_t number) { return random_values({rows, channels}, number, kType); };
      for (const Activation kind : kAllActivations)
        compare_twins<T>({x, table(3), table(4), random_values({1, channels}, 5, kType),
                          unwritten(shape, kType), unwritten(shape, kType), unwritten(shape, kType)},
                         [&](const Tensors& t) {
                           scale_channels(t[0], t[1], t[2], t[3], kind, t[4], t[5]);
                           scale_channels(t[0], {}, t[2], {}, kind, t[6], {});
                           scale_channels(t[6], {}, {}, t[3], kind, t[6], {});
                         });
      for (const Write mode : {Write::assign, Write::accumulate})
        compare_twins<T>({dz, x, table(3), table(4), table(5), table(6), random_values(shape, 7, kType),
                          random_values(shape, 8, kType)},
                         [&](const Tensors& t) {
                           scale_channels_backward(t[0], t[1], t[2], t[3], t[4], t[5], t[6], mode);
                           scale_channels_backward(t[0], t[1], {}, t[3], {}, {}, t[7], mode);
                         });
    }
  }
}

// Non-negative values, as sums of squares are.
Tensor positive_values(const Shape& shape, std::uint32_t number, DType dtype) {
  const Tensor values = random_values(shape, number);
  for (double& value : values.span<double>()) value = 5 * value * value;
  return values.to(dtype);
}

TEMPLATE_TEST_CASE("tables of normalizations on the device agree with the processor", "", float, double) {
  using T = TestType;
  constexpr DType kType = dtype_of<T>;
  struct Size {
    Index images, groups, share, pixels;
  };
  // No images; images in several chunks; groups of more channels than a warp has threads; images without
  // pixels.
  for (const auto [images, groups, share, pixels] :
       {Size{0, 2, 3, 5}, Size{140, 3, 2, 1}, Size{5, 4, 41, 12}, Size{7, 1, 35, 49}, Size{2, 5, 1, 0}}) {
    const Index channels = groups * share;
    const Shape table{images, channels}, row{1, channels};
    const auto values = [](const Shape& shape, std::uint32_t number) {
      return random_values(shape, number, kType);
    };
    const auto by_channel = [&](std::uint32_t number) { return values({channels}, number); };
    compare_twins<T>(
        {values(table, 1), positive_values(table, 2, kType), by_channel(3), unwritten(table, kType),
         unwritten(table, kType), unwritten(table, kType), values(table, 4), values(table, 5),
         unwritten(table, kType), unwritten(table, kType), by_channel(6), by_channel(7)},
        [&](const Tensors& t) {
          group_norm_table(t[0], t[1], pixels, groups, 0.1, t[2], t[3], t[4], t[5]);
          group_norm_backward_table(t[6], t[7], pixels, groups, t[2], t[4], t[8], t[9], t[10], t[11]);
        });
    const double count = static_cast<double>(std::max<Index>(images * pixels, 1));
    compare_twins<T>({values(table, 1), positive_values(table, 2, kType), by_channel(3),
                      unwritten({2, channels}, DType::f64), unwritten(row, kType), unwritten(row, kType),
                      unwritten(row, kType), by_channel(4), positive_values({channels}, 5, kType)},
                     [&](const Tensors& t) {
                       batch_norm_totals(t[0], t[1], pixels, t[3]);
                       batch_norm_table(t[3], count, 0.1, t[2], t[4], t[5], t[6], t[7], t[8], 0.3);
                       batch_norm_running_table(t[7], t[8], 0.1, t[2], t[4], t[5], t[6]);
                     });
    compare_twins<T>({values(table, 1), values(table, 2), values(row, 3), by_channel(4),
                      unwritten({2, channels}, DType::f64), by_channel(5), by_channel(6),
                      unwritten(row, kType), unwritten(row, kType)},
                     [&](const Tensors& t) {
                       batch_norm_backward_totals(t[0], t[1], t[2], t[4], t[5], t[6]);
                       batch_norm_backward_table(t[4], count, t[3], t[2], t[7], t[8]);
                     });
  }
}

TEMPLATE_TEST_CASE("depthwise convolution on the device agrees with the processor", "", float, double) {
  using T = TestType;
  constexpr DType kType = dtype_of<T>;
  Shapes shapes(23);
  struct Images {
    Index images, height, width, channels;
  };
  for (const Index size : {1, 2, 3, 5, 7, 9})
    for (const Index stride : {1, 2, 3}) {
      const Window window{size, stride, shapes.between(0, size - 1)};
      // No images; images of one window; channels that are multiples of 4 or not; images for several parts.
      std::vector<Images> all{{0, size, size, 3}, {1, size, size, 4}, {2, size + 2, size + 5, 36}};
      if (stride < 3) all.push_back({3, 19, 17, shapes.between(1, 9)});
      for (const auto [images, height, width, channels] : all) {
        CAPTURE(size, stride, window.padding, images, height, width, channels);
        const Shape shape{images, height, width, channels};
        const Tensor x = random_values(shape, 1, kType),
                     weight = random_values({size, size, channels}, 2, kType),
                     dy = random_values(window_shape("test", x, window, channels), 3, kType, 0.3),
                     bias = random_values({channels}, 6, kType);
        const Tensor scratch = unwritten({depthwise_parts(images), size, size, channels}, kType);
        compare_twins<T>({x, weight, unwritten(dy.shape(), kType), dy, unwritten(shape, kType),
                          random_values(shape, 4, kType), random_values(weight.shape(), 5, kType), bias,
                          unwritten(dy.shape(), kType)},
                         [&](const Tensors& t) {
                           depthwise(t[0], t[1], window, t[2]);
                           depthwise(t[0], t[1], window, t[8], t[7], Activation::relu);
                           depthwise_backward_input(t[3], t[1], window, t[4], Write::assign);
                           depthwise_backward_input(t[3], t[1], window, t[5], Write::accumulate);
                           depthwise_backward_weight(t[3], t[0], window, t[6], scratch);
                         });
      }
    }
}

TEMPLATE_TEST_CASE("convolution on the device agrees with the processor", "", float, double) {
  using T = TestType;
  constexpr DType kType = dtype_of<T>;
  struct Images {
    Index images, height, width, in, out;
  };
  for (const Window window : {Window{1, 1, 0}, Window{3, 1, 1}, Window{3, 2, 1}, Window{2, 3, 1}})
    for (const auto [images, height, width, in, out] :
         {Images{0, 4, 4, 2, 2}, Images{1, 3, 3, 0, 2}, Images{2, 7, 5, 3, 9}, Images{3, 6, 8, 8, 4}}) {
      CAPTURE(window.size, window.stride, images, in, out);
      const Shape shape{images, height, width, in},
          outputs = window_shape("test", Tensor::empty(shape), window, out);
      const Tensor x = random_values(shape, 1, kType),
                   weight = random_values({out, window.size, window.size, in}, 2, kType, 0.3),
                   bias = random_values({out}, 3, kType), dz = random_values(outputs, 4, kType, 0.3);
      const auto scratch = [&](const Tensors& t) {
        return Tensor::empty({convolution_scratch(t[0], window)}, kType);
      };
      for (const auto& [kind, biased] : {std::pair{Activation::none, false},
                                         {Activation::none, true},
                                         {Activation::gelu, true},
                                         {Activation::relu, false}})
        compare_twins<T>(
            {x, weight, biased ? bias : Tensor{}, unwritten(outputs, kType),
             kind == Activation::gelu ? unwritten(outputs, kType) : Tensor{}},
            [&](const Tensors& t) { convolution(t[0], t[1], t[2], window, kind, t[3], t[4], scratch(t)); });
      compare_twins<T>({x, weight, dz, unwritten(shape, kType), random_values(shape, 5, kType),
                        random_values(weight.shape(), 6, kType), random_values({out}, 7, kType)},
                       [&](const Tensors& t) {
                         convolution_backward_input(t[2], t[1], window, t[3], Write::assign, scratch(t));
                         convolution_backward_input(t[2], t[1], window, t[4], Write::accumulate, scratch(t));
                         convolution_backward_parameters(t[2], t[0], window, t[5], t[6], scratch(t));
                         convolution_backward_parameters(t[2], t[0], window, t[5], {}, scratch(t));
                       });
    }
}

TEST_CASE("convolution rounds operands by precision, except with independent rows") {
  const Window window{3, 1, 1};
  const Tensor x = conclave::cuda::to_device(random_values({2, 5, 6, 4}, 1, DType::f32)),
               weight = conclave::cuda::to_device(random_values({8, 3, 3, 4}, 2, DType::f32));
  const auto convolved = [&](Precision chosen, RowBits bits) {
    const PrecisionScope scope(chosen);
    const Tensor y = conclave::cuda::empty_on_device({2, 5, 6, 8});
    convolution(x, weight, {}, window, Activation::none, y, {}, conclave::cuda::empty_on_device({0}), bits);
    return conclave::cuda::to_host(y);
  };
  const Tensor exact = convolved(Precision::f32, RowBits::fastest);
  CHECK_FALSE(same_bits(convolved(Precision::tf32, RowBits::fastest), exact));
  for (const Precision chosen : {Precision::f32, Precision::tf32, Precision::bf16})
    CHECK(same_bits(convolved(chosen, RowBits::independent), exact));
}

}  // namespace
}  // namespace conclave
