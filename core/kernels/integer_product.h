// Products of integers, with which inference computes instead of reals: inputs from 0 to at most 255, weights
// from -127 to 127, sums of 32 bits. While a sum is in the cache it is converted to a real number, bias and
// activation are applied, and the result may be rounded to integers for the next product.
//
// A processor with VNNI multiplies four inputs by four weights and adds the products to a sum in one
// instruction. With AVX2 alone, two products are first added in 16 bits, which is enough for 7-bit inputs: 2
// * 127 * 127 < 2^15. For 8-bit inputs, even and odd inputs are multiplied separately, which takes twice as
// long. All sums are exact, and the same on every processor.
//
// A CUDA device multiplies signed integers, by cuBLASLt: inputs of more than 7 bits are stored in its memory
// minus signed_shift(). Their zero points are not shifted.
#pragma once

#include <vector>

#include "core/kernels/fake_quantize.h"
#include "core/kernels/matmul.h"

namespace conclave::kernels {

/// The amount by which inputs with levels up to `highest` are lowered in a device's memory.
CONCLAVE_HOST_DEVICE constexpr std::int32_t signed_shift(std::int32_t highest) {
  return highest > 127 ? 128 : 0;
}

/// Weights [groups, out, in]; each channel has a scale of its own. On the CPU, integers are stored in panels
/// of kPanel channels: for each four consecutive inputs, the first channel's four weights, then the second
/// channel's, and so on. Places beyond `out` and `in` hold zeros.
struct IntegerWeights {
  static constexpr Index kPanel = 16, kQuad = 4, kRow = 16;
  static constexpr Index kMostInputs = 1 << 15;  ///< of one product, so that 32-bit sums cannot overflow

  Index groups = 0, out = 0, in = 0;
  Tensor values;  ///< [groups, panels, quads, kPanel, kQuad] i8; on a device [groups, padded, row_bytes]
  Tensor scale;   ///< [groups, padded] f32
  Tensor sums;    ///< [groups, padded] i32: the sum of each channel's integers, to account for zero points

  /// Allocates memory of its own.
  static IntegerWeights empty(Index groups, Index out, Index in, Device device = Device::cpu);
  Index panels() const { return (out + kPanel - 1) / kPanel; }
  Index padded() const { return panels() * kPanel; }
  Index quads() const { return (in + kQuad - 1) / kQuad; }
  /// The length of a row of `in` inputs, filled up with zeros to the alignment that tensor cores need.
  static Index row_bytes(Index in) { return (in + kRow - 1) / kRow * kRow; }
  Index row_bytes() const { return row_bytes(in); }
  std::size_t bytes() const { return values.bytes() + scale.bytes() + sums.bytes(); }
};

/// integers [channels, ...] i8 = weight [channels, ...] f32, rounded in steps of each channel's scale
/// [channels].
void round_weights(const Tensor& weight, const Tensor& scale, QuantLevels levels, const Tensor& integers);

/// Packs weight [groups, out, in] f32 with the scale [groups * out] of each channel.
void pack_weights(const Tensor& weight, const Tensor& scale, QuantLevels levels, const IntegerWeights& to);

/// Inputs as integers: values [rows, row_bytes] u8, on a device i8; scale and zero_point [rows] or [1] f32.
struct IntegerRows {
  Tensor values, scale, zero_point;
  static DType dtype(Device device) { return device == Device::cpu ? DType::u8 : DType::i8; }
};

/// Rounds x [rows, in] f32 with a scale and zero point from each row's own range, which are written to `to`
/// as well. A row that is not finite has the scale NaN, and so has its products. Throws Error unless the
/// levels lie in [0, 255]. The product of these rows needs levels.highest.
void quantize_rows(const Tensor& x, QuantLevels levels, const IntegerRows& to);
/// Like quantize_rows(), but with the scales and zero points that are in `to`, for each row or one for all.
/// NaN becomes the lowest level.
void quantize_by(const Tensor& x, QuantLevels levels, const IntegerRows& to);

/// The ways in which processors compute sums. integer_paths() are those that this one has, the fastest last.
enum class IntegerPath : std::uint8_t { portable, avx2, vnni };
const std::vector<IntegerPath>& integer_paths();
const char* name_of(IntegerPath path);

/// y [rows, out] f32 = activation(x times the weights of the row's group + bias [groups, out], if defined),
/// in the real numbers that the integers represent. `highest` is the greatest integer in x.
void integer_product(const IntegerRows& x, std::int32_t highest, RowOffsets offsets,
                     const IntegerWeights& weights, const Tensor& bias, Activation activation,
                     const Tensor& y, IntegerPath path = integer_paths().back());
/// The same product, rounded to integers for the next one with the scales and zero points in `next`.
void integer_product(const IntegerRows& x, std::int32_t highest, RowOffsets offsets,
                     const IntegerWeights& weights, const Tensor& bias, Activation activation,
                     const IntegerRows& next, QuantLevels levels, IntegerPath path = integer_paths().back());

namespace integer_tiles {

/// sums [rows, panels * kPanel] = rows of x with `quads` quads, row_bytes apart, times `panels` consecutive
/// panels. Small enough to stay in the first-level cache.
using SumTile = void (*)(Index rows, Index panels, Index quads, const std::uint8_t* x, Index row_bytes,
                         const std::int8_t* weights, std::int32_t* sums, Index sum_row);
void portable(Index rows, Index panels, Index quads, const std::uint8_t* x, Index row_bytes,
              const std::int8_t* weights, std::int32_t* sums, Index sum_row);
void avx2_7_bits(Index rows, Index panels, Index quads, const std::uint8_t* x, Index row_bytes,
                 const std::int8_t* weights, std::int32_t* sums, Index sum_row);
void avx2_8_bits(Index rows, Index panels, Index quads, const std::uint8_t* x, Index row_bytes,
                 const std::int8_t* weights, std::int32_t* sums, Index sum_row);
void vnni(Index rows, Index panels, Index quads, const std::uint8_t* x, Index row_bytes,
          const std::int8_t* weights, std::int32_t* sums, Index sum_row);

}  // namespace integer_tiles

/// CUDA implementations, called by the functions above for tensors on a device.
namespace cuda {
void pack_weights(const Tensor& weight, const Tensor& scale, QuantLevels levels, const IntegerWeights& to);
void quantize_rows(const Tensor& x, QuantLevels levels, const IntegerRows& to);
void quantize_by(const Tensor& x, QuantLevels levels, const IntegerRows& to);
void integer_product(const IntegerRows& x, std::int32_t highest, RowOffsets offsets,
                     const IntegerWeights& weights, const Tensor& bias, Activation activation,
                     const Tensor& y);
void integer_product(const IntegerRows& x, std::int32_t highest, RowOffsets offsets,
                     const IntegerWeights& weights, const Tensor& bias, Activation activation,
                     const IntegerRows& next, QuantLevels levels);
}  // namespace cuda
}  // namespace conclave::kernels
