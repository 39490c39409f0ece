#include "parallel/moe/router_losses.h"

#include <algorithm>

#include "core/kernels/softmax.h"

namespace conclave {

Tensor route_probabilities(Tape& tape, const Tensor& logits, double z_coefficient,
                           const ForwardContext& context) {
  Tensor probabilities = tape.output(logits.shape(), logits.dtype(), {&logits});
  const bool with_z = context.training && z_coefficient > 0;
  const Tensor lse = with_z ? tape.empty({logits.size(0)}, logits.dtype()) : Tensor();
  kernels::softmax(logits, probabilities, lse);
  const double scale = 2.0 * z_coefficient * context.loss_scale /
                       static_cast<double>(std::max<Index>(context.global_tokens, 1));
  tape.record("router", {&logits}, {&probabilities}, [=](Tape& tape) {
    const auto [dlogits, write] = tape.into(logits);
    kernels::softmax_backward(tape.gradient(probabilities), probabilities, dlogits, write);
    if (!lse.defined()) return;
    for_floating(logits.dtype(), "router", [&, dlogits = dlogits]<class T>(T) {
      const T *p = probabilities.data<T>(), *z = lse.data<T>();
      T* out = dlogits.data<T>();
      const Index experts = logits.size(1);
      for (Index i = 0; i < logits.numel(); ++i) out[i] += static_cast<T>(scale) * z[i / experts] * p[i];
    });
  });
  return probabilities;
}

Tensor balance_probabilities(Tape& tape, const Tensor& probabilities, const Balancer& balancer,
                             std::span<const Index> load, const ForwardContext& context) {
  if (!balancer.has_gradient() || !tape.recording() || !probabilities.slot) return probabilities;
  Tensor balanced = probabilities;
  tape.watch(balanced);
  const auto experts = static_cast<std::size_t>(probabilities.size(1));
  const std::span<double> gradient{static_cast<double*>(tape.arena().allocate(experts * sizeof(double))),
                                   experts};
  const Index tokens = context.global_tokens;
  const double scale = context.loss_scale;
  tape.record("balance", {&probabilities}, {&balanced}, [=, &balancer](Tape& tape) {
    balancer.probability_gradient(load, tokens, gradient);
    const Tensor d = tape.gradient(balanced);
    for_floating(d.dtype(), "balance", [&]<class T>(T) {
      T* out = d.data<T>();
      for (Index i = 0; i < d.numel(); ++i)
        out[i] += static_cast<T>(scale * gradient[static_cast<std::size_t>(i) % experts]);
    });
    tape.hand_on(d, probabilities);
  });
  return balanced;
}

}  // namespace conclave
