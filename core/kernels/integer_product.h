// Products of integers, which inference computes with in place of reals: inputs from 0 to at most 255,
// weights from -127 to 127, sums of 32 bits. What a sum stands for, the bias, the activation and the integers
// for the next product are made of it while it is in the cache.
//
// A processor with VNNI multiplies four inputs with four weights and adds the products to a sum in one
// instruction. With AVX2 alone it adds two products to one of 16 bits first, in which two of 7-bit inputs
// fit: 2 * 127 * 127 < 2^15. For 8-bit inputs it takes every second product by itself, and twice as long. All
// sums are exact, and the same everywhere.
//
// A CUDA device multiplies signed integers, by cuBLASLt: inputs of more than 7 bits lie signed_shift() lower
// in its memory than what they count as. Their zero points do not.
#pragma once

#include <vector>

#include "core/kernels/fake_quantize.h"
#include "core/kernels/matmul.h"

namespace conclave::kernels {

/// What inputs of levels up to `highest` are lower by in a device's memory.
CONCLAVE_HOST_DEVICE constexpr std::int32_t signed_shift(std::int32_t highest) {
  return highest > 127 ? 128 : 0;
}

/// Weights [groups, out, in], each channel's in steps of its own scale. For processors, integers lie in
/// panels of kPanel channels: of each four inputs that follow one another, the first channel's four weights,
/// then the next's. Places beyond `out` and `in` hold zeros.
struct IntegerWeights {
  static constexpr Index kPanel = 16, kQuad = 4, kRow = 16;
  static constexpr Index kMostInputs = 1 << 15;  ///< of a product, whose sums have 32 bits

  Index groups = 0, out = 0, in = 0;
  Tensor values;  ///< [groups, panels, quads, kPanel, kQuad] i8; on a device [groups, padded, row_bytes]
  Tensor scale;   ///< [groups, padded] f32
  Tensor sums;    ///< [groups, padded] i32: over each channel's integers, which zero points want

  /// With its own memory.
  static IntegerWeights empty(Index groups, Index out, Index in, Device device = Device::cpu);
  Index panels() const { return (out + kPanel - 1) / kPanel; }
  Index padded() const { return panels() * kPanel; }
  Index quads() const { return (in + kQuad - 1) / kQuad; }
  /// What a row of `in` inputs is long, with zeros behind its end: as tensor cores want them to begin.
  static Index row_bytes(Index in) { return (in + kRow - 1) / kRow * kRow; }
  Index row_bytes() const { return row_bytes(in); }
  std::size_t bytes() const { return values.bytes() + scale.bytes() + sums.bytes(); }
};

/// integers [channels, ...] i8 = weight [channels, ...] f32 in steps of each channel's scale [channels].
void round_weights(const Tensor& weight, const Tensor& scale, QuantLevels levels, const Tensor& integers);

/// Packs weight [groups, out, in] f32 by the scale [groups * out] of each channel.
void pack_weights(const Tensor& weight, const Tensor& scale, QuantLevels levels, const IntegerWeights& to);

/// Inputs in integers: values [rows, row_bytes] u8, on a device i8; scale and zero_point [rows] or [1] f32.
struct IntegerRows {
  Tensor values, scale, zero_point;
  static DType dtype(Device device) { return device == Device::cpu ? DType::u8 : DType::i8; }
};

/// x [rows, in] f32 by scales and zero points of each row's own range, which are written, too. Throws Error
/// where levels do not lie in [0, 255]. Levels' highest is what the product of the rows must be told.
void quantize_rows(const Tensor& x, QuantLevels levels, const IntegerRows& to);
/// The same by those in `to`, of each row or of all.
void quantize_by(const Tensor& x, QuantLevels levels, const IntegerRows& to);

/// How processors compute sums; which this one has. The last of integer_paths() is the fastest.
enum class IntegerPath : std::uint8_t { portable, avx2, vnni };
const std::vector<IntegerPath>& integer_paths();
const char* name_of(IntegerPath path);

/// y [rows, out] f32 = activation(what the products of rows x with their group's weights stand for + bias
/// [groups, out], where defined). `highest` is the greatest integer in x.
void integer_product(const IntegerRows& x, std::int32_t highest, RowOffsets offsets,
                     const IntegerWeights& weights, const Tensor& bias, Activation activation,
                     const Tensor& y, IntegerPath path = integer_paths().back());
/// The same, in integers for the next product: by the scales and zero points in `next`.
void integer_product(const IntegerRows& x, std::int32_t highest, RowOffsets offsets,
                     const IntegerWeights& weights, const Tensor& bias, Activation activation,
                     const IntegerRows& next, QuantLevels levels, IntegerPath path = integer_paths().back());

namespace integer_tiles {

/// sums [rows, panels * kPanel] = rows x of `quads` quads, row_bytes apart, times that many panels, which lie
/// one after another. Small enough to stay in the first-level cache.
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

/// The CUDA twins, to which those above hand over.
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
