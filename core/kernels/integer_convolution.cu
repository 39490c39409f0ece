#include "core/kernels/integer_convolution.h"

#include "core/kernels/cuda_kernel.h"

namespace conclave::kernels::cuda {
namespace {

struct Images {
  const std::int8_t* values;
  Index height, width, channels, row_bytes;
};

// A thread writes one integer of a row, in the order of memory.
struct Unfold {
  Images images;
  Window window;
  Index out_height, out_width, row_bytes;
  const float *scale, *zero_point;
  Index step;  // 0: one scale for all images
  std::int32_t below;
  std::int8_t* to;
  float *to_scale, *to_zero_point;

  template <int kWidth>
  __device__ void at(Index item) const {
    const Index row = item / row_bytes, i = item % row_bytes, positions = out_height * out_width,
                image = row / positions, position = row % positions, depth = window.size * images.channels;
    const float zero = zero_point[image * step];
    if (i == 0 && (step > 0 || row == 0)) {
      to_scale[row] = scale[image * step];
      to_zero_point[row] = zero;
    }
    std::int8_t value = 0;
    if (i < window.size * depth) {
      const Index y = position / out_width * window.stride + i / depth - window.padding,
                  x = position % out_width * window.stride + i % depth / images.channels - window.padding;
      const bool inside = y >= 0 && y < images.height && x >= 0 && x < images.width;
      value = inside ? images.values[image * images.row_bytes + (y * images.width + x) * images.channels +
                                     i % images.channels]
                     : static_cast<std::int8_t>(static_cast<std::int32_t>(zero) - below);
    }
    to[item] = value;
  }
};

}  // namespace

void unfold_integers(const IntegerRows& x, std::int32_t highest, const Shape& images, const Window& window,
                     const IntegerRows& rows) {
  for_items(
      "unfold_integers", rows.values.numel(),
      Unfold{.images = {x.values.data<std::int8_t>(), images[1], images[2], images[3], x.values.size(1)},
             .window = window,
             .out_height = window.positions(images[1]),
             .out_width = window.positions(images[2]),
             .row_bytes = rows.values.size(1),
             .scale = x.scale.data<float>(),
             .zero_point = x.zero_point.data<float>(),
             .step = x.scale.numel() == 1 ? 0 : 1,
             .below = signed_shift(highest),
             .to = rows.values.data<std::int8_t>(),
             .to_scale = rows.scale.data<float>(),
             .to_zero_point = rows.zero_point.data<float>()});
}

}  // namespace conclave::kernels::cuda
