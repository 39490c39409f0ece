// Fake quantization: real numbers rounded to those that few integers can stand for, so that training sees
// what inference with integers will do (Jacob et al. 2018, arXiv:1712.05877, section 3). An integer q stands
// for scale (q - zero_point). The gradient passes the rounding straight through; that of the scale is LSQ's
// (Esser et al. 2020, arXiv:1902.08153, eq. 3).
//
// Zero points are integers, held in the type of the numbers they belong to.
#pragma once

#include "core/host_device.h"
#include "core/kernels/kernel.h"

namespace conclave {

/// The integers that stand for numbers, lowest to highest.
struct QuantLevels {
  std::int32_t lowest = -127, highest = 127;

  /// As many below zero as above: of 8 bits, -127 to 127.
  static constexpr QuantLevels symmetric(int bits) {
    const std::int32_t highest = (1 << (bits - 1)) - 1;
    return {-highest, highest};
  }
  /// From zero: of 8 bits, 0 to 255.
  static constexpr QuantLevels affine(int bits) { return {0, (1 << bits) - 1}; }
  CONCLAVE_HOST_DEVICE constexpr bool is_symmetric() const { return lowest == -highest; }
};

namespace kernels {

/// lowest, highest [rows]: the least and the greatest number of each row of x [rows, columns]; of no columns,
/// 0.
void row_ranges(const Tensor& x, const Tensor& lowest, const Tensor& highest);

/// The scale and zero point with which `levels` reach from lowest [n] to highest [n], and to 0, which some
/// integer stands for exactly: scale [n], zero_point [n]. With symmetric levels the zero point is 0. Where
/// the range is nothing but 0, the scale is 1.
void range_scales(const Tensor& lowest, const Tensor& highest, QuantLevels levels, const Tensor& scale,
                  const Tensor& zero_point);

/// y = scale (clamp(round(x / scale) + zero_point) - zero_point), rounded to even: x, y [rows, columns];
/// scale, zero_point [rows], or [1] for all rows; an undefined zero_point is 0. y may be x.
void fake_quantize(const Tensor& x, const Tensor& scale, const Tensor& zero_point, QuantLevels levels,
                   const Tensor& y);

/// dx (=, +=) dy where x is within the levels' range, else 0; undefined: not wanted. dscale [rows], where
/// defined, = the sums over each row of dy times: round(x / scale) - x / scale within the range, beyond it
/// the end that x was moved to, minus the zero point.
void fake_quantize_backward(const Tensor& dy, const Tensor& x, const Tensor& scale, const Tensor& zero_point,
                            QuantLevels levels, const Tensor& dx, Write write, const Tensor& dscale);

/// The CUDA twins, to which those above hand over.
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
