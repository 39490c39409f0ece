// A square window that slides over images, as in convolutions and pooling. Images are rows of
// pixels with their channels together, [images, height, width, channels] (NHWC): a pixel is then a row like a
// token's, and a convolution of single pixels is a linear layer.
#pragma once

#include "core/kernels/kernel.h"

namespace conclave::kernels {

struct Window {
  Index size = 3;
  Index stride = 1;
  Index padding = 1;  ///< rows and columns of zeros around the image

  /// Positions of the window along a side of `length` pixels.
  Index positions(Index length) const { return (length + 2 * padding - size) / stride + 1; }
};

/// The shape of a window's results for images [images, height, width, ...]: [images, positions, positions,
/// channels]. Throws Error if the window does not fit.
inline Shape window_shape(const char* operation, const Tensor& x, const Window& window, Index channels) {
  expect_rank(operation, "x", x, 4);
  require(window.size >= 1 && window.stride >= 1 && window.padding >= 0 && window.padding < window.size,
          "{}: a window of {} with stride {} and padding {} is not possible; size and stride must be at "
          "least 1, the padding at least 0 and below the size",
          operation, window.size, window.stride, window.padding);
  for (const int side : {1, 2})
    require(x.size(side) + 2 * window.padding >= window.size,
            "{}: images of {} x {} pixels are smaller than the window of {} with padding {}", operation,
            x.size(1), x.size(2), window.size, window.padding);
  return {x.size(0), window.positions(x.size(1)), window.positions(x.size(2)), channels};
}

}  // namespace conclave::kernels
