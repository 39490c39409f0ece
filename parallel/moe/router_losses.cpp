#include "parallel/moe/router_losses.h"

#include <algorithm>

#include "core/kernels/routing.h"
#include "core/kernels/softmax.h"

namespace conclave {

Tensor route_probabilities(Tape& tape, const Tensor& logits, const Tensor& offsets, RouterLosses losses,
                           const ForwardContext& context) {
  Tensor probabilities = tape.output(logits.shape(), logits.dtype(), {&logits});
  if (!context.training) losses = {};
  const Tensor lse = losses.z > 0 ? tape.empty({logits.size(0)}, logits.dtype()) : Tensor();
  kernels::softmax(logits, probabilities, lse);
  const double per_token =
      context.loss_scale / static_cast<double>(std::max<Index>(context.global_tokens, 1));
  const Tensor in_domain = tape.on_device(context.in_domain);
  losses.domain *= in_domain.defined() ? context.domain_strength : 0;
  tape.record("router", {&logits}, {&probabilities}, [=](Tape& tape) {
    const auto [dlogits, write] = tape.into(logits);
    kernels::softmax_backward(tape.gradient(probabilities), probabilities, dlogits, write);
    if (losses.domain > 0)
      kernels::add_domain_gradients(probabilities, offsets, in_domain, losses.domain * per_token,
                                    losses.domain_expert, dlogits);
    if (losses.z > 0 || losses.entropy > 0)
      kernels::add_router_gradients(probabilities, lse, {losses.z * per_token, losses.entropy * per_token},
                                    dlogits);
  });
  return probabilities;
}

Tensor balance_probabilities(Tape& tape, const Tensor& probabilities, const Balancer& balancer,
                             std::span<const Index> load, const ForwardContext& context) {
  if (!balancer.has_gradient() || !tape.recording() || !probabilities.slot) return probabilities;
  Tensor balanced = probabilities;
  tape.watch(balanced);
  const auto gradient = tape.arena().array<double>(probabilities.size(1));
  const Index tokens = context.global_tokens;
  const double scale = context.loss_scale;
  tape.record("balance", {&probabilities}, {&balanced}, [=, &balancer](Tape& tape) {
    balancer.probability_gradient(load, tokens, gradient);
    for (double& value : gradient) value *= scale;
    const Tensor d = tape.gradient(balanced);
    kernels::add_row(
        tape.on_device(Tensor::borrow(gradient.data(), {static_cast<Index>(gradient.size())}, DType::f64)),
        d);
    tape.pass_gradient(d, probabilities);
  });
  return balanced;
}

}  // namespace conclave
