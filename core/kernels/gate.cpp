#include "core/kernels/gate.h"

#include <algorithm>
#include <cmath>

namespace conclave::kernels {

void top_k_gate(const Tensor& probabilities, const Selection& selection, const Tensor& experts,
                const Tensor& weights, TopP top_p) {
  expect_rank("top_k_gate", "probabilities", probabilities, 2);
  expect("top_k_gate", "probabilities", probabilities, probabilities.shape(), probabilities.dtype());
  expect_rank("top_k_gate", "experts", experts, 2);
  const Index tokens = probabilities.size(0), count = probabilities.size(1), k = experts.size(1);
  require(k >= 1 && k <= count, "top_k_gate: {} of {} experts cannot be chosen", k, count);
  require(top_p.p > 0 && top_p.p <= 1 && top_p.least >= 1 && top_p.least <= k,
          "top_k_gate: p is {}, expected above 0 and at most 1; least is {}, expected 1 to {}", top_p.p,
          top_p.least, k);
  expect("top_k_gate", "experts", experts, {tokens, k}, DType::i32);
  expect("top_k_gate", "weights", weights, {tokens, k}, probabilities.dtype());
  const auto& [bias, factor] = selection;
  if (bias.defined()) expect("top_k_gate", "bias", bias, {count}, probabilities.dtype());
  if (factor.defined()) expect("top_k_gate", "factor", factor, {count}, probabilities.dtype());
  if constexpr (kBuiltWithCuda)
    if (on_cuda("top_k_gate", probabilities, bias, factor, experts, weights))
      return cuda::top_k_gate(probabilities, selection, experts, weights, top_p);
  for_floating(probabilities.dtype(), "top_k_gate", [&]<class T>(T) {
    const T *pp = probabilities.data<T>(), *pb = bias.defined() ? bias.data<T>() : nullptr,
            *pf = factor.defined() ? factor.data<T>() : nullptr;
    std::int32_t* pe = experts.data<std::int32_t>();
    T* pw = weights.data<T>();
#pragma omp parallel for schedule(static) if (probabilities.numel() > kParallelElements)
    for (Index token = 0; token < tokens; ++token) {
      const T* p = pp + token * count;
      std::int32_t* chosen = pe + token * k;
      T sum = 0, share = 0, all = 1;  // share: of `all`, with the factors applied
      if (pf && top_p.p < 1) {
        all = 0;
        for (Index e = 0; e < count; ++e) all += p[e] * pf[e];
      }
      Index taken = 0;
      // With p = 1 all k are chosen, even if rounding leaves their sum below 1.
      const auto enough = [&] {
        return taken >= top_p.least && top_p.p < 1 && share >= static_cast<T>(top_p.p) * all;
      };
      for (; taken < k && !enough(); ++taken) {  // k passes: k is small, and nothing needs sorting or scratch
        Index best = -1;
        T best_score = 0;
        for (Index e = 0; e < count; ++e) {
          const T score = (pf ? p[e] * pf[e] : p[e]) + (pb ? pb[e] : T(0));
          // NaNs come last. `best < 0` accepts even a NaN, so that there is always a choice.
          const bool better =
              best < 0 || score > best_score || (std::isnan(best_score) && !std::isnan(score));
          if (better && std::find(chosen, chosen + taken, static_cast<std::int32_t>(e)) == chosen + taken) {
            best = e;
            best_score = score;
          }
        }
        chosen[taken] = static_cast<std::int32_t>(best);
        sum += p[best];
        share += pf ? p[best] * pf[best] : p[best];
      }
      std::fill(chosen + taken, chosen + k, -1);
      sum = std::max(sum, static_cast<T>(kLeastShare));
      for (Index j = 0; j < k; ++j) pw[token * k + j] = j < taken ? p[chosen[j]] / sum : T(0);
    }
  });
}

void top_k_gate_backward(const Tensor& dweights, const Tensor& probabilities, const Tensor& experts,
                         const Tensor& weights, const Tensor& dprobabilities, Write mode) {
  const Index tokens = probabilities.size(0), count = probabilities.size(1), k = experts.size(1);
  expect("top_k_gate backward", "dweights", dweights, weights.shape(), probabilities.dtype());
  expect("top_k_gate backward", "dprobabilities", dprobabilities, probabilities.shape(),
         probabilities.dtype());
  if constexpr (kBuiltWithCuda)
    if (on_cuda("top_k_gate backward", dweights, probabilities, experts, weights, dprobabilities))
      return cuda::top_k_gate_backward(dweights, probabilities, experts, weights, dprobabilities, mode);
  for_floating(probabilities.dtype(), "top_k_gate backward", [&]<class T>(T) {
    const T *up = dweights.data<T>(), *pp = probabilities.data<T>(), *pw = weights.data<T>();
    const std::int32_t* pe = experts.data<std::int32_t>();
    T* out = dprobabilities.data<T>();
#pragma omp parallel for schedule(static) if (probabilities.numel() > kParallelElements)
    for (Index token = 0; token < tokens; ++token) {
      T* row = out + token * count;
      if (mode == Write::assign) std::fill(row, row + count, T(0));
      T sum = 0, dot = 0;
      const auto* chosen = pe + token * k;
      const Index taken = std::find(chosen, chosen + k, -1) - chosen;
      for (Index j = 0; j < taken; ++j) {
        sum += pp[token * count + chosen[j]];
        dot += up[token * k + j] * pw[token * k + j];
      }
      if (sum < static_cast<T>(kLeastShare)) sum = static_cast<T>(kLeastShare), dot = 0;
      for (Index j = 0; j < taken; ++j) row[chosen[j]] += (up[token * k + j] - dot) / sum;
    }
  });
}

}  // namespace conclave::kernels
