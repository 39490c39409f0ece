// Matrix products. A layer's product is one *group* of rows per expert, each with its own weight; a plain
// linear layer is the case of one group. The rows are cut into blocks and each block is one single-threaded
// BLAS call whose bias and activation follow while the block is still in cache; so few rows per expert cost
// no more than many (a threaded BLAS call on 64 rows reaches two thirds of what two single-threaded calls
// side by side reach).
#pragma once

#include <span>

#include "core/kernels/kernel.h"

namespace conclave {

enum class Activation : std::uint8_t { none, relu, gelu, silu, hard_swish, hard_sigmoid };

namespace kernels {

enum class Transpose : std::uint8_t { no, yes };

/// c [m, n] = op(a) [m, k] op(b) [k, n]. Rows may be strided (views), columns not.
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
/// bias [groups, out] or undefined. `derivative` [rows, out], where defined, receives
/// activation'(pre-activation) for the backward pass. `panels`, where defined, is what pack_weight() made of
/// the weight: products of independent rows take it, and have the same bits as without.
void grouped_linear(const Tensor& x, RowOffsets offsets, const Tensor& weight, const Tensor& bias,
                    Activation activation, const Tensor& y, const Tensor& derivative,
                    RowBits bits = RowBits::fastest, const Tensor& panels = {});

/// `panels`, of panels_shape(), is a weight [groups, out, in] in host memory as this processor's tiles take
/// it: what products would else rearrange each time, or else rearrange few rows of x for.
Shape panels_shape(const Tensor& weight);
void pack_weight(const Tensor& weight, const Tensor& panels);

/// dx [rows, in] (=, +=) dz [rows, out] weight[g]; dz is the gradient at the pre-activation.
void grouped_linear_backward_input(const Tensor& dz, RowOffsets offsets, const Tensor& weight,
                                   const Tensor& dx, Write write);

/// dweight[g] += dz[rows of g]^T x[rows of g]; dbias[g] += column sums of dz, where defined. Both accumulate.
void grouped_linear_backward_parameters(const Tensor& dz, const Tensor& x, RowOffsets offsets,
                                        const Tensor& dweight, const Tensor& dbias);

/// The CUDA twins, to which those above hand over: cuBLASLt's products, one for each group that has rows, but
/// for many small groups and for RowBits::independent, which are one kernel of ours. They follow
/// conclave::precision(), the kernel computing in f32 in any case; for bf16, both tensors are rounded anew to
/// copies in scratch, parameters too.
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
