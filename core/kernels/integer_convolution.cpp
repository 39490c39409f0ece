#include "core/kernels/integer_convolution.h"

#include "core/kernels/activation.h"
#include "core/kernels/depthwise_lines.h"

namespace conclave::kernels {

using depthwise_lines::Inside, depthwise_lines::Line;

template void depthwise_lines::run<float, 32>(const Line<float, std::uint8_t>&);

namespace {

void expect_images(const char* operation, const IntegerRows& x, const Shape& images) {
  require(images.rank() == 4, "{}: images of shape {} are not [images, height, width, channels]", operation,
          images);
  expect(operation, "integers", x.values,
         {images[0], IntegerWeights::row_bytes(images[1] * images[2] * images[3])},
         IntegerRows::dtype(x.values.device()));
  const Index scales = x.scale.numel() == 1 ? 1 : images[0];
  expect(operation, "scale", x.scale, {scales}, DType::f32);
  expect(operation, "zero_point", x.zero_point, {scales}, DType::f32);
}

float of_image(const Tensor& scales, Index image) {
  return scales.data<float>()[scales.numel() == 1 ? 0 : image];
}

}  // namespace

void unfold_integers(const IntegerRows& x, [[maybe_unused]] std::int32_t highest, const Shape& images,
                     const Window& window, const IntegerRows& rows) {
  const char* operation = "unfold_integers";
  expect_images(operation, x, images);
  const Index height = images[1], width = images[2], channels = images[3];
  const Index out_height = window.positions(height), out_width = window.positions(width),
              row_bytes = IntegerWeights::row_bytes(window.size * window.size * channels),
              positions = out_height * out_width;
  expect(operation, "rows", rows.values, {images[0] * positions, row_bytes},
         IntegerRows::dtype(x.values.device()));
  const bool each = x.scale.numel() > 1;
  expect(operation, "rows' scale", rows.scale, {each ? images[0] * positions : 1}, DType::f32);
  expect(operation, "rows' zero_point", rows.zero_point, rows.scale.shape(), DType::f32);
  if constexpr (kBuiltWithCuda)
    if (on_cuda(operation, x.values, x.scale, x.zero_point, rows.values, rows.scale, rows.zero_point))
      return cuda::unfold_integers(x, highest, images, window, rows);
  const auto* px = x.values.data<std::uint8_t>();
  auto* to = rows.values.data<std::uint8_t>();
#pragma omp parallel for collapse(2) schedule(static) if (rows.values.numel() > kParallelElements)
  for (Index image = 0; image < images[0]; ++image)
    for (Index i = 0; i < out_height; ++i)
      for (Index j = 0; j < out_width; ++j) {
        const Index row = (image * out_height + i) * out_width + j;
        const float scale = of_image(x.scale, image), zero_point = of_image(x.zero_point, image);
        if (each || row == 0) {
          rows.scale.data<float>()[row] = scale;
          rows.zero_point.data<float>()[row] = zero_point;
        }
        const auto zero = static_cast<std::uint8_t>(zero_point);
        std::uint8_t* out = to + row * row_bytes;
        const Index from = j * window.stride - window.padding;
        const auto [first, last] = Inside(from, 1, width, window.size);
        for (Index a = 0; a < window.size; ++a, out += window.size * channels) {
          const Index y = i * window.stride + a - window.padding;
          std::fill_n(out, window.size * channels, zero);
          if (y >= 0 && y < height)
            std::copy_n(px + image * x.values.size(1) + (y * width + from + first) * channels,
                        (last - first) * channels, out + first * channels);
        }
        std::fill(out, to + (row + 1) * row_bytes, std::uint8_t{0});
      }
}

void integer_depthwise(const IntegerRows& x, const Shape& images, const Tensor& integers, const Tensor& scale,
                       const Window& window, const Tensor& bias, Activation activation, const Tensor& y) {
  const char* operation = "integer depthwise";
  expect_images(operation, x, images);
  require(x.values.device() == Device::cpu,
          "{}: runs on the CPU only; CUDA devices compute with rounded reals", operation);
  const Index height = images[1], width = images[2], channels = images[3];
  const Index out_height = window.positions(height), out_width = window.positions(width);
  expect(operation, "y", y, {images[0], out_height, out_width, channels}, DType::f32);
  expect(operation, "weight", integers, {window.size, window.size, channels}, DType::f32);
  expect(operation, "weight's scale", scale, {channels}, DType::f32);
  if (bias.defined()) expect(operation, "bias", bias, {channels}, DType::f32);
  require(window.size * window.size * 255 * 127 <= 1 << 24, "{}: sums under a window of {} are not exact",
          operation, window.size);
  const float *weight = integers.data<float>(), *scales = scale.data<float>(),
              *biases = bias.defined() ? bias.data<float>() : nullptr;
#pragma omp parallel for collapse(2) schedule(static) if (y.numel() * window.size > kParallelElements)
  for (Index image = 0; image < images[0]; ++image)
    for (Index row = 0; row < out_height; ++row) {
      float* const to = y.data<float>() + (image * out_height + row) * out_width * channels;
      run_widest(depthwise_lines::forward_line(x.values.data<std::uint8_t>() + image * x.values.size(1),
                                               height, width, channels, window, weight, row, to,
                                               of_image(x.zero_point, image)));
      const float step = of_image(x.scale, image);
      for (Index pixel = 0; pixel < out_width; ++pixel) {
        float* const out = to + pixel * channels;
#pragma omp simd
        for (Index c = 0; c < channels; ++c)
          out[c] = out[c] * (step * scales[c]) + (biases ? biases[c] : 0.0F);
      }
      activate(to, out_width * channels, activation, nullptr);
    }
}

}  // namespace conclave::kernels
