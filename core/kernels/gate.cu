#include "core/kernels/cuda_kernel.h"
#include "core/kernels/gate.h"

namespace conclave::kernels::cuda {
namespace {

// The order in which experts are chosen: by falling score, ties by rising index, NaNs last; expert -1 comes
// after all others. The order is strict, so that each pass can continue after the previous choice, without a
// list of choices.
template <class T>
struct Candidate {
  T score;
  Index expert;
  __device__ bool before(const Candidate& other) const {
    if (expert < 0 || other.expert < 0) return expert >= 0 && other.expert < 0;
    const bool number = score == score, other_number = other.score == other.score;
    if (number != other_number) return number;
    if (number && score != other.score) return score > other.score;
    return expert < other.expert;
  }
};

template <class T>
__device__ Candidate<T> first_of_warp(Candidate<T> best) {
  for (int distance = kWarp / 2; distance > 0; distance /= 2) {
    const Candidate<T> other{__shfl_xor_sync(0xffffffffu, best.score, distance),
                             __shfl_xor_sync(0xffffffffu, best.expert, distance)};
    if (other.before(best)) best = other;
  }
  return best;
}

// A warp per token. `bias` and `factor` may be null. `least` is k if all k are to be chosen, even if rounding
// leaves their sum below 1.
template <class T>
__global__ void __launch_bounds__(kBlock)
    top_k_gate_kernel(Index tokens, Index count, Index k, const T* probabilities, const T* bias,
                      const T* factor, T p, Index least, std::int32_t* experts, T* weights) {
  const Index lane = threadIdx.x;
  for_team_rows(tokens, [&](Index token) {
    const T* row = probabilities + token * count;
    std::int32_t* chosen = experts + token * k;
    T sum = 0, share = 0, all = 1;  // share: of `all`, with the factors applied
    if (factor && least < k) {
      all = 0;
      for (Index e = lane; e < count; e += kWarp) all += row[e] * factor[e];
      all = team_sum<kWarp>(all);
    }
    Index taken = 0;
    Candidate<T> last{T(0), -1};
    for (; taken < k && !(taken >= least && share >= p * all); ++taken) {
      Candidate<T> best{T(0), -1};
      for (Index e = lane; e < count; e += kWarp) {
        const Candidate<T> next{(factor ? row[e] * factor[e] : row[e]) + (bias ? bias[e] : T(0)), e};
        if ((taken == 0 || last.before(next)) && next.before(best)) best = next;
      }
      last = best = first_of_warp(best);
      if (lane == 0) chosen[taken] = static_cast<std::int32_t>(best.expert);
      sum += row[best.expert];
      share += factor ? row[best.expert] * factor[best.expert] : row[best.expert];
    }
    if (sum < T(kLeastShare)) sum = T(kLeastShare);
    __syncwarp();  // lane 0's choices, before other lanes read them
    for (Index j = lane; j < k; j += kWarp) {
      if (j >= taken) chosen[j] = -1;
      weights[token * k + j] = j < taken ? row[chosen[j]] / sum : T(0);
    }
  });
}

template <class T>
__global__ void __launch_bounds__(kBlock)
    top_k_gate_backward_kernel(Index tokens, Index count, Index k, const T* dweights, const T* probabilities,
                               const std::int32_t* experts, const T* weights, T* dprobabilities, Write mode) {
  const Index lane = threadIdx.x;
  for_team_rows(tokens, [&](Index token) {
    T* row = dprobabilities + token * count;
    if (mode == Write::assign)
      for (Index e = lane; e < count; e += kWarp) row[e] = T(0);
    const std::int32_t* chosen = experts + token * k;
    T sum = 0, dot = 0;
    Index taken = 0;
    for (; taken < k && chosen[taken] != -1; ++taken) {  // k is small: every lane adds up all
      sum += probabilities[token * count + chosen[taken]];
      dot += dweights[token * k + taken] * weights[token * k + taken];
    }
    if (sum < T(kLeastShare)) sum = T(kLeastShare), dot = 0;
    __syncwarp();  // the zeros, before other lanes add to them
    for (Index j = lane; j < taken; j += kWarp) row[chosen[j]] += (dweights[token * k + j] - dot) / sum;
  });
}

}  // namespace

void top_k_gate(const Tensor& probabilities, const Selection& selection, const Tensor& experts,
                const Tensor& weights, TopP top_p) {
  const Index tokens = probabilities.size(0), count = probabilities.size(1), k = experts.size(1);
  if (tokens == 0) return;
  const auto& [bias, factor] = selection;
  for_floating(probabilities.dtype(), "top_k_gate", [&, &bias = bias, &factor = factor]<class T>(T) {
    launch("top_k_gate", top_k_gate_kernel<T>, team_shape<kWarp>(tokens), tokens, count, k,
           probabilities.data<T>(), bias.defined() ? bias.template data<T>() : nullptr,
           factor.defined() ? factor.template data<T>() : nullptr, static_cast<T>(top_p.p),
           top_p.p < 1 ? top_p.least : k, experts.data<std::int32_t>(), weights.data<T>());
  });
}

void top_k_gate_backward(const Tensor& dweights, const Tensor& probabilities, const Tensor& experts,
                         const Tensor& weights, const Tensor& dprobabilities, Write write) {
  const Index tokens = probabilities.size(0), count = probabilities.size(1), k = experts.size(1);
  if (tokens == 0) return;
  for_floating(probabilities.dtype(), "top_k_gate backward", [&]<class T>(T) {
    launch("top_k_gate backward", top_k_gate_backward_kernel<T>, team_shape<kWarp>(tokens), tokens, count, k,
           dweights.data<T>(), probabilities.data<T>(), experts.data<std::int32_t>(), weights.data<T>(),
           dprobabilities.data<T>(), write);
  });
}

}  // namespace conclave::kernels::cuda
