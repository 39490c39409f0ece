// The top-k gate of a mixture of experts (Shazeer et al. 2017, section 2.1): each token goes to the k experts
// with the highest scores. A balancer's bias takes part in the selection only, never in the weights (Wang et
// al. 2024, "Auxiliary-loss-free load balancing", eq. 3).
#pragma once

#include "core/kernels/kernel.h"

namespace conclave::kernels {

/// How many of its k best experts a token goes to: the fewest whose probabilities sum to p or more, and at
/// least `least` (Huang et al. 2024, "Harder tasks need more experts", arXiv:2403.07652, eq. 4). If a
/// selection has factors, each probability is multiplied by its factor, and divided by the sum of these
/// products. p = 1: all k.
struct TopP {
  double p = 1;
  Index least = 1;
};

/// How experts are compared: a token's score of an expert is probability * factor + bias. Each is [experts];
/// undefined, bias is 0 and factor is 1.
struct Selection {
  Tensor bias, factor;
};

/// The least value of the sum that a token's chosen probabilities are divided by. If biases alone decide the
/// choice, all chosen probabilities may be 0 in f32, and the weights would be NaN.
inline constexpr double kLeastShare = 1e-30;

/// probabilities [tokens, experts]; experts [tokens, k] i32 by falling score (ties: the lower index first),
/// -1 after the last chosen one; weights [tokens, k] = the chosen probabilities, divided by their sum (at
/// least kLeastShare), then 0.
void top_k_gate(const Tensor& probabilities, const Selection& selection, const Tensor& experts,
                const Tensor& weights, TopP top_p = {});

/// dprobabilities [tokens, experts] (=, +=); dweights after the last choice are not read.
void top_k_gate_backward(const Tensor& dweights, const Tensor& probabilities, const Tensor& experts,
                         const Tensor& weights, const Tensor& dprobabilities, Write write);

/// CUDA implementations, called by the functions above for tensors on a device.
namespace cuda {
void top_k_gate(const Tensor& probabilities, const Selection& selection, const Tensor& experts,
                const Tensor& weights, TopP top_p);
void top_k_gate_backward(const Tensor& dweights, const Tensor& probabilities, const Tensor& experts,
                         const Tensor& weights, const Tensor& dprobabilities, Write write);
}  // namespace cuda

}  // namespace conclave::kernels
