// Convolutions of integers. What lies outside of an image is zero, the integer for which is its zero point.
#pragma once

#include "core/kernels/integer_product.h"
#include "core/kernels/window.h"

namespace conclave::kernels {

/// The pixels of each image under the window, integers up to `highest`, as rows for integer_product() with
/// weights [1, out, size x size x channels]. An image of `images` [images, height, width, channels] is a row
/// of x; `rows` [images x positions, row bytes] have its scale and zero point, each or one for all as x has.
void unfold_integers(const IntegerRows& x, std::int32_t highest, const Shape& images, const Window& window,
                     const IntegerRows& rows);

/// y [images, out height, out width, channels] f32 = activation(what the sums under depthwise(), of images x
/// as above and `integers` [size, size, channels] f32 from -127 to 127 in steps of `scale` [channels], stand
/// for + bias [channels], where defined). Sums are exact. For processors.
void integer_depthwise(const IntegerRows& x, const Shape& images, const Tensor& integers, const Tensor& scale,
                       const Window& window, const Tensor& bias, Activation activation, const Tensor& y);

/// The CUDA twin, to which that above hands over.
namespace cuda {
void unfold_integers(const IntegerRows& x, std::int32_t highest, const Shape& images, const Window& window,
                     const IntegerRows& rows);
}  // namespace cuda

}  // namespace conclave::kernels
