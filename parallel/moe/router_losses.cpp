#include "parallel/moe/router_losses.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/kernels/softmax.h"

namespace conclave {
namespace {

// d(-log p_te) / dlogits = p_t - onehot(e)
void add_domain_gradient(const Tensor& probabilities, const Tensor& offsets, const Tensor& in_domain,
                         double scale, Index expert, const Tensor& dlogits) {
  const auto bounds = offsets.span<std::int32_t>(), chosen = in_domain.span<std::int32_t>();
  for (std::size_t s = 0; s < chosen.size(); ++s) {
    if (chosen[s] == 0) continue;
    const Tensor p = probabilities.rows(bounds[s], bounds[s + 1]), d = dlogits.rows(bounds[s], bounds[s + 1]);
    for_floating(d.dtype(), "domain", [&]<class T>(T) {
      const T weight = static_cast<T>(scale);
      for (Index i = 0; i < d.numel(); ++i)
        d.data<T>()[i] += weight * (p.data<T>()[i] - T(i % d.size(1) == expert ? 1 : 0));
    });
  }
}

}  // namespace

Tensor route_probabilities(Tape& tape, const Tensor& logits, const Tensor& offsets, RouterLosses losses,
                           const ForwardContext& context) {
  Tensor probabilities = tape.output(logits.shape(), logits.dtype(), {&logits});
  if (!context.training) losses = {};
  const Tensor lse = losses.z > 0 ? tape.empty({logits.size(0)}, logits.dtype()) : Tensor();
  kernels::softmax(logits, probabilities, lse);
  const double per_token =
      context.loss_scale / static_cast<double>(std::max<Index>(context.global_tokens, 1));
  const Tensor in_domain = context.in_domain;
  losses.domain *= in_domain.defined() ? context.domain_strength : 0;
  tape.record("router", {&logits}, {&probabilities}, [=](Tape& tape) {
    const auto [dlogits, write] = tape.into(logits);
    kernels::softmax_backward(tape.gradient(probabilities), probabilities, dlogits, write);
    if (losses.domain > 0)
      add_domain_gradient(probabilities, offsets, in_domain, losses.domain * per_token, losses.domain_expert,
                          dlogits);
    if (losses.z <= 0 && losses.entropy <= 0) return;
    for_floating(logits.dtype(), "router", [&, dlogits = dlogits]<class T>(T) {
      const Index experts = logits.size(1);
      const T z_scale = static_cast<T>(2 * losses.z * per_token),
              entropy_scale = static_cast<T>(losses.entropy * per_token);
      for (Index token = 0; token < logits.size(0); ++token) {
        const T* p = probabilities.data<T>() + token * experts;
        T* out = dlogits.data<T>() + token * experts;
        if (losses.z > 0)
          for (Index e = 0; e < experts; ++e) out[e] += z_scale * lse.data<T>()[token] * p[e];
        if (losses.entropy <= 0) continue;
        const auto log = [&](Index e) { return std::log(std::max(p[e], std::numeric_limits<T>::min())); };
        T entropy = 0;
        for (Index e = 0; e < experts; ++e) entropy -= p[e] * log(e);
        for (Index e = 0; e < experts; ++e) out[e] -= entropy_scale * p[e] * (log(e) + entropy);
      }
    });
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
    const Tensor d = tape.gradient(balanced);
    for_floating(d.dtype(), "balance", [&]<class T>(T) {
      T* out = d.data<T>();
      for (Index i = 0; i < d.numel(); ++i)
        out[i] += static_cast<T>(scale * gradient[static_cast<std::size_t>(i) % gradient.size()]);
    });
    tape.hand_on(d, probabilities);
  });
  return balanced;
}

}  // namespace conclave
