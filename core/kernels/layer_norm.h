// Layer normalization (Ba, Kiros, Hinton 2016): y = gamma (x - mean) / sqrt(variance + epsilon) + beta over
// each row, alone or followed by GELU in the same pass. The forward pass keeps mean and 1/deviation per row;
// the backward pass recomputes the normalized values, which is cheaper than reading them back.
#pragma once

#include "core/kernels/kernel.h"

namespace conclave::kernels {

struct LayerNormOptions {
  double epsilon = 1e-5;  ///< added to the variance
  bool gelu = false;      ///< y = gelu(layer_norm(x)), fused
};

/// x, y [rows, hidden]; gamma, beta [hidden]; mean, rstd [rows] are written for the backward pass.
void layer_norm(const Tensor& x, const Tensor& gamma, const Tensor& beta, LayerNormOptions options,
                const Tensor& y, const Tensor& mean, const Tensor& rstd);

/// dx [rows, hidden] (=, +=), which must not be dy or x; dgamma, dbeta [hidden] accumulate. Rows are divided
/// into parts whose sums are added in order, so that the bits do not depend on the threads; `scratch`
/// [layer_norm_parts(rows), 3, hidden] is needed on the CPU only.
void layer_norm_backward(const Tensor& dy, const Tensor& x, const Tensor& gamma, const Tensor& beta,
                         LayerNormOptions options, const Tensor& mean, const Tensor& rstd, const Tensor& dx,
                         Write write, const Tensor& dgamma, const Tensor& dbeta, const Tensor& scratch);
inline Index layer_norm_parts(Index rows) { return std::min<Index>((rows + 7) / 8, 64); }

/// CUDA implementations, called by the functions above for tensors on a device.
namespace cuda {
void layer_norm(const Tensor& x, const Tensor& gamma, const Tensor& beta, LayerNormOptions options,
                const Tensor& y, const Tensor& mean, const Tensor& rstd);
void layer_norm_backward(const Tensor& dy, const Tensor& x, const Tensor& gamma, const Tensor& beta,
                         LayerNormOptions options, const Tensor& mean, const Tensor& rstd, const Tensor& dx,
                         Write write, const Tensor& dgamma, const Tensor& dbeta);
}  // namespace cuda

}  // namespace conclave::kernels
