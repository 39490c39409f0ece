// Matrix products. A layer's product has one *group* of rows per expert, each with its own weight; a plain
// linear layer has one group. The rows are cut into blocks. Each block is one single-threaded BLAS call, and
// its bias and activation follow while the block is still in cache. So few rows per expert cost no more than
// many (a threaded BLAS call on 64 rows reaches two thirds of the speed of two single-threaded calls side by
// side).
#pragma once

#include <span>

#include "core/kernels/kernel.h"

namespace conclave {

enum class Activation : std::uint8_t { none, relu, gelu, silu, hard_swish, hard_sigmoid };

namespace kernels {

enum class Transpose : std::uint8_t { no, yes };

/// c [m, n] = op(a) [m, k] op(b) [k, n]. Rows may be strided (views); the elements of a row must be
/// contiguous.
void matmul(const Tensor& a, Transpose transpose_a, const Tensor& b, Transpose transpose_b, const Tensor& c,
            Write write = Write::assign);

/// Group g owns rows [offsets[g], offsets[g + 1]) of x; offsets has groups + 1 entries, the first 0, the last
/// `rows`.
using RowOffsets = std::span<const Index>;

/// Throws Error unless `offsets` divides `rows` rows into `groups` groups.
void expect_offsets(const char* operation, const char* argument, RowOffsets offsets, Index groups,
                    Index rows);

/// Whether a row's result may depend, in its last bits, on how many other rows there are: BLAS orders its
/// sums by the shape of the product.
enum class RowBits : std::uint8_t { fastest, independent };

/// y [rows, out] = activation(x [rows, in] weight[g] [out, in]^T + bias[g] [out]), weight [groups, out, in],
/// bias [groups, out] or undefined. `derivative` [rows, out], if defined, receives
/// activation'(pre-activation) for the backward pass. `panels`, if defined, is the result of pack_weight()
/// for this weight: products with RowBits::independent read it, and have the same bits as without it.
void grouped_linear(const Tensor& x, RowOffsets offsets, const Tensor& weight, const Tensor& bias,
                    Activation activation, const Tensor& y, const Tensor& derivative,
                    RowBits bits = RowBits::fastest, const Tensor& panels = {});

/// Packs a weight [groups, out, in] in host memory into `panels`, of panels_shape(): the layout that this
/// processor's tiles read, so that a product need not repack the weight (or, for few rows, transpose x) each
/// time.
Shape panels_shape(const Tensor& weight);
void pack_weight(const Tensor& weight, const Tensor& panels);

/// dx [rows, in] (=, +=) dz [rows, out] weight[g]; dz is the gradient at the pre-activation.
void grouped_linear_backward_input(const Tensor& dz, RowOffsets offsets, const Tensor& weight,
                                   const Tensor& dx, Write write);

/// dweight[g] += dz[rows of g]^T x[rows of g]; dbias[g] += column sums of dz, where defined. Both accumulate.
void grouped_linear_backward_parameters(const Tensor& dz, const Tensor& x, RowOffsets offsets,
                                        const Tensor& dweight, const Tensor& dbias);

/// CUDA implementations, called by the functions above: one product by cuBLASLt for each group that has rows,
/// except that many small groups, and RowBits::independent, take one kernel of our own. cuBLASLt's products
/// follow conclave::precision(); our kernel computes in f32 in any case. For bf16, both operands, parameters
/// too, are rounded to copies in scratch for every call.
namespace cuda {
void matmul(const Tensor& a, Transpose transpose_a, const Tensor& b, Transpose transpose_b, const Tensor& c,
            Write write);
void grouped_linear(const Tensor& x, RowOffsets offsets, const Tensor& weight, const Tensor& bias,
                    Activation activation, const Tensor& y, const Tensor& derivative, RowBits bits);
void grouped_linear_backward_input(const Tensor& dz, RowOffsets offsets, const Tensor& weight,
                                   const Tensor& dx, Write write);
void grouped_linear_backward_parameters(const Tensor& dz, const Tensor& x, RowOffsets offsets,
                                        const Tensor& dweight, const Tensor& dbias);
}  // namespace cuda

}  // namespace kernels
}  // namespace conclave
