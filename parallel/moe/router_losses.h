// Turns router scores into probabilities and adds the gradients of losses that act on the router alone: the
// z-loss on the size of the scores, the entropy of the probabilities, and a balancer's auxiliary loss. These
// gradients are added in the backward pass, so the losses need no place in the model's total loss.
#pragma once

#include <span>

#include "autograd/nn/layers.h"
#include "parallel/moe/balancer.h"

namespace conclave {

struct RouterLosses {
  double z = 0;  ///< coefficient of the z-loss, mean_t (log sum exp logits_t)^2 (Zoph et al. 2022, eq. 5)
  double entropy = 0;  ///< of mean_t -sum_e p_te log p_te; it keeps a top_p gate from choosing many experts
  /// Coefficient of the domain's prior, mean_t -log p_te times context.domain_strength, for the one expert e
  /// that is to serve the domain. Tokens of texts outside the domain contribute 0 to the mean. (Adding a
  /// prior to the expert's scores instead would do the router's work for it: the router would not learn the
  /// choice, and most of it would be lost once the prior has faded.)
  double domain = 0;
  Index domain_expert = 0;
};

/// softmax(logits [tokens, experts]). The backward pass adds the gradients of `losses`, whose means are over
/// context.global_tokens. offsets [sequences + 1] i32 are those of the texts in context.in_domain.
Tensor route_probabilities(Tape& tape, const Tensor& logits, const Tensor& offsets, RouterLosses losses,
                           const ForwardContext& context);

/// Returns the same probabilities; the backward pass adds `balancer`'s gradient for `load`. `load` [experts]
/// is read in the backward pass and must live as long as the tape.
Tensor balance_probabilities(Tape& tape, const Tensor& probabilities, const Balancer& balancer,
                             std::span<const Index> load, const ForwardContext& context);

}  // namespace conclave
