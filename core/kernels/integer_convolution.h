// Convolutions of integers. Pixels outside an image have the value zero, so their integer is the zero point.
#pragma once

#include "core/kernels/integer_product.h"
#include "core/kernels/window.h"

namespace conclave::kernels {

/// Writes the pixels of each image under the window, integers up to `highest`, as rows for integer_product()
/// with weights [1, out, size x size x channels]. Each image of `images` [images, height, width, channels] is
/// a row of x. `rows` [images x positions, row bytes] get the scale and zero point of their image, or the one
/// for all if x has only one.
void unfold_integers(const IntegerRows& x, std::int32_t highest, const Shape& images, const Window& window,
                     const IntegerRows& rows);

/// y [images, out height, out width, channels] f32 = activation(depthwise convolution + bias [channels], if
/// defined). x and `images` are as above. `integers` [size, size, channels] f32 are whole numbers from -127
/// to 127, in steps of `scale` [channels]. Sums are exact. CPU only.
void integer_depthwise(const IntegerRows& x, const Shape& images, const Tensor& integers, const Tensor& scale,
                       const Window& window, const Tensor& bias, Activation activation, const Tensor& y);

/// CUDA implementation, called by unfold_integers().
namespace cuda {
void unfold_integers(const IntegerRows& x, std::int32_t highest, const Shape& images, const Window& window,
                     const IntegerRows& rows);
}  // namespace cuda

}  // namespace conclave::kernels
