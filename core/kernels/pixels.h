// Conversion of images from bytes to the numbers that layers compute with.
#pragma once

#include <span>

#include "core/kernels/kernel.h"

namespace conclave::kernels {

/// y, f32 or f64, = (x / 255 - mean[c]) / deviation[c] for each channel c of x [..., channels] u8; throws
/// Error unless all deviations are above 0.
void pixels_to_floats(const Tensor& x, std::span<const double> mean, std::span<const double> deviation,
                      const Tensor& y);

}  // namespace conclave::kernels
