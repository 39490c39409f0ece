// Fake quantization: real numbers are rounded to those that a few integers can represent, so that training
// sees what inference with integers will compute (Jacob et al. 2018, arXiv:1712.05877, section 3). An integer
// q represents scale (q - zero_point). The gradient passes unchanged through the rounding; the gradient of
// the scale is that of LSQ (Esser et al. 2020, arXiv:1902.08153, eq. 3). "Within the range" means after
// rounding, as in PyTorch; LSQ's authors compare before rounding, and so differ up to half a step beyond it.
//
// Zero points are integers, stored in the dtype of the numbers that they belong to.
#pragma once

#include "core/host_device.h"
#include "core/kernels/kernel.h"

namespace conclave {

/// The integers that represent numbers, from lowest to highest.
struct QuantLevels {
  std::int32_t lowest = -127, highest = 127;

  /// As many below zero as above: -127 to 127 for 8 bits.
  static constexpr QuantLevels symmetric(int bits) {
    const std::int32_t highest = (1 << (bits - 1)) - 1;
    return {-highest, highest};
  }
  /// From zero: 0 to 255 for 8 bits.
  static constexpr QuantLevels affine(int bits) { return {0, (1 << bits) - 1}; }
  CONCLAVE_HOST_DEVICE constexpr bool is_symmetric() const { return lowest == -highest; }
};

namespace kernels {

/// lowest, highest [rows]: the least and the greatest number of each row of x [rows, columns]; 0 if there are
/// no columns.
void row_ranges(const Tensor& x, const Tensor& lowest, const Tensor& highest);

/// The scale [n] and zero_point [n] with which `levels` reach from lowest [n] to highest [n] and include 0,
/// which one integer represents exactly. With symmetric levels the zero point is 0. If the range is only 0,
/// or the scale would be less than the smallest normal number, the scale is 1.
void range_scales(const Tensor& lowest, const Tensor& highest, QuantLevels levels, const Tensor& scale,
                  const Tensor& zero_point);

/// y = scale (clamp(round(x / scale) + zero_point) - zero_point), rounding ties to even: x, y [rows,
/// columns]; scale, zero_point [rows], or [1] for all rows; an undefined zero_point stands for 0. y may be x.
void fake_quantize(const Tensor& x, const Tensor& scale, const Tensor& zero_point, QuantLevels levels,
                   const Tensor& y);

/// dx (=, +=) dy where x, rounded, lies within the levels' range, else 0; dx may be undefined. dscale [rows],
/// if defined, = the sums over each row of dy times the derivative by the scale. This is round(x / scale) - x
/// / scale within the range and, beyond it, the level that x was clamped to, minus the zero point.
void fake_quantize_backward(const Tensor& dy, const Tensor& x, const Tensor& scale, const Tensor& zero_point,
                            QuantLevels levels, const Tensor& dx, Write write, const Tensor& dscale);

/// CUDA implementations, called by the functions above for tensors on a device.
namespace cuda {
void row_ranges(const Tensor& x, const Tensor& lowest, const Tensor& highest);
void range_scales(const Tensor& lowest, const Tensor& highest, QuantLevels levels, const Tensor& scale,
                  const Tensor& zero_point);
void fake_quantize(const Tensor& x, const Tensor& scale, const Tensor& zero_point, QuantLevels levels,
                   const Tensor& y);
void fake_quantize_backward(const Tensor& dy, const Tensor& x, const Tensor& scale, const Tensor& zero_point,
                            QuantLevels levels, const Tensor& dx, Write write, const Tensor& dscale);
}  // namespace cuda

}  // namespace kernels
}  // namespace conclave
