// The router's operations other than products and softmax: gradients of auxiliary losses, noise, and the
// mapping of tokens to their sequences.
#pragma once

#include "core/kernels/kernel.h"
#include "core/random.h"

namespace conclave::kernels {

/// Coefficients of a token's terms; see RouterLosses in parallel/moe/router_losses.h for the formulas.
struct RouterTerms {
  double z = 0, entropy = 0;
};

/// dlogits [tokens, experts] += the gradients of terms.z lse^2 + terms.entropy H(p), given p =
/// softmax(logits) as probabilities [tokens, experts] and, unless terms.z is 0, lse [tokens] = log sum exp
/// logits:
///   2 z lse p_e - entropy p_e (log p_e + H(p))
void add_router_gradients(const Tensor& probabilities, const Tensor& lse, RouterTerms terms,
                          const Tensor& dlogits);

/// dlogits [tokens, experts] += coefficient (p - onehot(expert)), the gradient of -coefficient log p_expert,
/// for the tokens of those sequences for which chosen [sequences] i32 is not 0. offsets [sequences + 1] i32
/// divides the tokens into sequences.
void add_domain_gradients(const Tensor& probabilities, const Tensor& offsets, const Tensor& chosen,
                          double coefficient, Index expert, const Tensor& dlogits);

/// x [rows, columns] += row [columns] f64.
void add_row(const Tensor& row, const Tensor& x);

/// numbers [rows] i32: the segment that each row belongs to; offsets [segments + 1] i32.
void segment_numbers(const Tensor& offsets, const Tensor& numbers);

/// x[i] = deviation times the stream's normal value number first + i.
void normal_noise(const RandomStream& stream, Index first, double deviation, const Tensor& x);

/// CUDA implementations, called by the functions above for tensors on a device.
namespace cuda {
void add_router_gradients(const Tensor& probabilities, const Tensor& lse, RouterTerms terms,
                          const Tensor& dlogits);
void add_domain_gradients(const Tensor& probabilities, const Tensor& offsets, const Tensor& chosen,
                          double coefficient, Index expert, const Tensor& dlogits);
void add_row(const Tensor& row, const Tensor& x);
void segment_numbers(const Tensor& offsets, const Tensor& numbers);
void normal_noise(const RandomStream& stream, Index first, double deviation, const Tensor& x);
}  // namespace cuda

}  // namespace conclave::kernels
