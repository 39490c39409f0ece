// From router scores to probabilities, with the gradients of the two losses that act on a router without
// being part of the task: the z-loss on the scores' size, and a balancer's auxiliary loss. Both are added in
// the backward pass, so no sum of losses runs through the model.
#pragma once

#include <span>

#include "autograd/nn/layers.h"
#include "parallel/moe/balancer.h"

namespace conclave {

/// softmax(logits [tokens, experts]), and the gradient of z_coefficient mean_t (log sum exp logits_t)^2 on
/// the way back (the mean is over context.global_tokens).
Tensor route_probabilities(Tape& tape, const Tensor& logits, double z_coefficient,
                           const ForwardContext& context);

/// The same probabilities; on the way back, `balancer`'s gradient for `load` joins. `load` [experts] is read
/// in the backward pass and must live as long as the tape.
Tensor balance_probabilities(Tape& tape, const Tensor& probabilities, const Balancer& balancer,
                             std::span<const Index> load, const ForwardContext& context);

}  // namespace conclave
