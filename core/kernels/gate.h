// The top-k gate of a mixture of experts (Shazeer et al. 2017, section 2.1): each token goes to the k experts
// of the highest score. What a balancer adds to scores takes part in the selection only, never in the weights
// (Wang et al. 2024, "Auxiliary-loss-free load balancing", eq. 3).
#pragma once

#include "core/kernels/kernel.h"

namespace conclave::kernels {

/// How many of its k best experts a token goes to: the fewest whose probabilities (times a selection's
/// factors, over the sum of these products) sum to p or more, and at least `least` (Huang et al. 2024,
/// "Harder tasks need more experts", arXiv:2403.07652, eq. 4). p = 1: all k.
struct TopP {
  double p = 1;
  Index least = 1;
};

/// How experts are compared: a token's score of an expert is probability * factor + bias. Each [experts], or
/// undefined for 1 and 0.
struct Selection {
  Tensor bias, factor;
};

/// What the sum of a token's chosen probabilities counts as, at least. Where biases alone choose, they may
/// all be 0 in f32, and weights would be no numbers.
inline constexpr double kLeastShare = 1e-30;

/// probabilities [tokens, experts]; experts [tokens, k] i32 by falling score (ties: the lower index first),
/// -1 behind the last that is chosen; weights [tokens, k] = the chosen probabilities, divided by their sum
/// (kLeastShare), and 0.
void top_k_gate(const Tensor& probabilities, const Selection& selection, const Tensor& experts,
                const Tensor& weights, TopP top_p = {});

/// dprobabilities [tokens, experts] (=, +=); dweights behind the last choice are not read.
void top_k_gate_backward(const Tensor& dweights, const Tensor& probabilities, const Tensor& experts,
                         const Tensor& weights, const Tensor& dprobabilities, Write write);

/// The CUDA twins, to which those above hand over.
namespace cuda {
void top_k_gate(const Tensor& probabilities, const Selection& selection, const Tensor& experts,
                const Tensor& weights, TopP top_p);
void top_k_gate_backward(const Tensor& dweights, const Tensor& probabilities, const Tensor& experts,
                         const Tensor& weights, const Tensor& dprobabilities, Write write);
}  // namespace cuda

}  // namespace conclave::kernels
