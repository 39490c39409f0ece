// Depthwise convolution (Chollet 2017; Howard et al. 2017): every channel has a window of its own and sees no
// other channel. Channels lie together (window.h), so that a vector of them is computed at once.
#pragma once

#include "core/kernels/matmul.h"
#include "core/kernels/window.h"

namespace conclave::kernels {

/// y [images, out height, out width, channels] = x [images, height, width, channels] under weight [size,
/// size, channels]: y(i, j, c) = sum over a, b of x(i stride + a - padding, j stride + b - padding, c)
/// weight(a, b, c); then y = activation(y + bias [channels]). bias may be undefined.
void depthwise(const Tensor& x, const Tensor& weight, const Window& window, const Tensor& y,
               const Tensor& bias = {}, Activation activation = Activation::none);

/// dx (=, +=), shaped like x.
void depthwise_backward_input(const Tensor& dy, const Tensor& weight, const Window& window, const Tensor& dx,
                              Write write);

/// Accumulates dweight [size, size, channels]. Images are divided into parts whose sums are added in order,
/// so that the bits do not depend on the threads; scratch [depthwise_parts(images), size, size, channels].
void depthwise_backward_weight(const Tensor& dy, const Tensor& x, const Window& window, const Tensor& dweight,
                               const Tensor& scratch);
inline Index depthwise_parts(Index images) { return std::min<Index>(images, 16); }

/// CUDA implementations, called by the functions above; they need no scratch from the caller.
namespace cuda {
void depthwise(const Tensor& x, const Tensor& weight, const Window& window, const Tensor& y);
void depthwise_backward_input(const Tensor& dy, const Tensor& weight, const Window& window, const Tensor& dx,
                              Write write);
void depthwise_backward_weight(const Tensor& dy, const Tensor& x, const Window& window,
                               const Tensor& dweight);
}  // namespace cuda

}  // namespace conclave::kernels
