// From router scores to probabilities, with the gradients of the losses that act on a router without being
// part of the task: the z-loss on the scores' size, the probabilities' entropy, and a balancer's auxiliary
// loss. They are added in the backward pass, so no sum of losses runs through the model.
#pragma once

#include <span>

#include "autograd/nn/layers.h"
#include "parallel/moe/balancer.h"

namespace conclave {

struct RouterLosses {
  double z = 0;  ///< coefficient of the z-loss, mean_t (log sum exp logits_t)^2 (Zoph et al. 2022, eq. 5)
  double entropy =
      0;  ///< of mean_t -sum_e p_te log p_te, which keeps a gate by top_p from asking for many experts
  /// The domain's prior: of mean_t -log p_te, times context.domain_strength, for the one expert e that is to
  /// serve the domain and with the mean's terms 0 for tokens of other texts. (Added to the expert's scores
  /// instead, a prior does the router's work, and is not learnt: most of it is gone once it has faded.)
  double domain = 0;
  Index domain_expert = 0;
};

/// softmax(logits [tokens, experts]), and the gradients of `losses` on the way back (the means are over
/// context.global_tokens). offsets [sequences + 1] i32 are those of context.in_domain's texts.
Tensor route_probabilities(Tape& tape, const Tensor& logits, const Tensor& offsets, RouterLosses losses,
                           const ForwardContext& context);

/// The same probabilities; on the way back, `balancer`'s gradient for `load` joins. `load` [experts] is read
/// in the backward pass and must live as long as the tape.
Tensor balance_probabilities(Tape& tape, const Tensor& probabilities, const Balancer& balancer,
                             std::span<const Index> load, const ForwardContext& context);

}  // namespace conclave
