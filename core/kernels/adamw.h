// AdamW (Loshchilov & Hutter 2019, algorithm 2) in one pass over flat arrays: parameters, gradients, both
// moments and, where asked for, the exponential moving average of the parameters.
#pragma once

#include "core/kernels/kernel.h"

namespace conclave::kernels {

struct AdamWOptions {
  double learning_rate = 1e-3;
  double beta1 = 0.9, beta2 = 0.999;
  double epsilon = 1e-8;
  bool adaptive = true;         ///< whether steps are divided by the root of the second moment, plus epsilon
  double weight_decay = 0.0;    ///< decoupled: the parameter shrinks by learning_rate * weight_decay
  double gradient_scale = 1.0;  ///< multiplies the gradient first (global-norm clipping)
  std::int64_t step = 1;        ///< from 1, for the bias corrections
  double ema = 0.0;             ///< decay of the average; its tensor may be undefined where 0
};

/// The size of `numbers`: what adamw() needs of AdamWOptions, as elements of the tensors' dtype in a tensor
/// beside them. So a CUDA graph can capture updates once and still use other numbers in every step.
inline constexpr Index kAdamWNumbers = 10;
/// Writes numbers [kAdamWNumbers] for `options`.
void prepare_adamw(const AdamWOptions& options, const Tensor& numbers);

/// Whether parameters shrink by the prepared weight decay.
enum class Decay : std::uint8_t { off, on };

/// All tensors have the same shape; values, first_moment, second_moment (and average, if defined) are
/// updated.
void adamw(const Tensor& values, const Tensor& gradients, const Tensor& first_moment,
           const Tensor& second_moment, const Tensor& average, Decay decay, const Tensor& numbers);

/// CUDA implementations, called by the functions above for tensors on a device.
namespace cuda {
void prepare_adamw(const AdamWOptions& options, const Tensor& numbers);
void adamw(const Tensor& values, const Tensor& gradients, const Tensor& first_moment,
           const Tensor& second_moment, const Tensor& average, Decay decay, const Tensor& numbers);
}  // namespace cuda

}  // namespace conclave::kernels
