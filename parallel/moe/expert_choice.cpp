#include "parallel/moe/expert_choice.h"

#include <algorithm>
#include <bit>

#include "core/kernels/activation.h"

namespace conclave {
namespace {

constexpr Index kBins = 256;

// For each expert, the smallest score that it still takes, and how many tokens of exactly that score it
// takes, counted from the first token of the first rank. This is a radix search over the scores' bits, one
// byte at a time, over all ranks at once. Scores are not negative, so their bits sort like their values.
template <class T>
struct Thresholds {
  using Bits = std::conditional_t<sizeof(T) == 4, std::uint32_t, std::uint64_t>;

  Thresholds(Tape& tape, const Tensor& scores, Index capacity, Communicator& world) {
    const Index tokens = scores.size(0), experts = scores.size(1);
    score = tape.arena().array<Bits>(experts);
    left = tape.arena().array<Index>(experts);
    std::ranges::fill(left, capacity);
    const Tensor histogram = tape.arena().empty_on_host({experts, kBins}, DType::i64);
    const T* p = scores.data<T>();
    for (int shift = 8 * sizeof(Bits) - 8; shift >= 0; shift -= 8) {
      const Bits decided = shift + 8 < static_cast<int>(8 * sizeof(Bits)) ? ~Bits{0} << (shift + 8) : Bits{0};
      histogram.zero();
      std::int64_t* bins = histogram.data<std::int64_t>();
      for (Index i = 0; i < tokens * experts; ++i) {
        const Bits bits = std::bit_cast<Bits>(p[i]);
        const auto e = static_cast<std::size_t>(i % experts);
        if ((bits & decided) == score[e])
          ++bins[static_cast<Index>(e) * kBins + static_cast<Index>((bits >> shift) & 0xFF)];
      }
      world.all_reduce(histogram);
      for (Index e = 0; e < experts; ++e) {
        const auto i = static_cast<std::size_t>(e);
        Index bin = kBins - 1;
        for (; bin > 0 && bins[e * kBins + bin] < left[i]; --bin) left[i] -= bins[e * kBins + bin];
        score[i] |= static_cast<Bits>(bin) << shift;
      }
    }
    // Among equal scores, tokens of lower ranks are taken first.
    const Tensor mine = tape.arena().empty_on_host({experts}, DType::i64),
                 all = tape.arena().empty_on_host({world.size(), experts}, DType::i64);
    mine.zero();
    for (Index i = 0; i < tokens * experts; ++i)
      mine.data<std::int64_t>()[i % experts] +=
          std::bit_cast<Bits>(p[i]) == score[static_cast<std::size_t>(i % experts)];
    world.all_gather(mine, all);
    for (Index e = 0; e < experts; ++e)
      for (int rank = 0; rank < world.rank(); ++rank)
        left[static_cast<std::size_t>(e)] -= all.data<std::int64_t>()[rank * experts + e];
  }

  std::span<Bits> score;
  std::span<Index> left;  // [experts] how many tokens of exactly that score this rank may still give
};

}  // namespace

// This gate is provided for comparison only, so it has no CUDA kernel: the host works on copies of device
// tensors.
functions::Gate expert_choice_gate(Tape& tape, const Tensor& probabilities, Index capacity,
                                   Communicator& world) {
  kernels::expect_rank("expert_choice_gate", "probabilities", probabilities, 2);
  const Index tokens = probabilities.size(0), experts = probabilities.size(1);
  const Tensor weights_here = tape.arena().empty_on_host(probabilities.shape(), probabilities.dtype()),
               experts_here = tape.arena().empty_on_host(probabilities.shape(), DType::i32),
               scores = tape.on_host(probabilities);
  std::int32_t* chosen = experts_here.data<std::int32_t>();
  std::fill_n(chosen, tokens * experts, -1);
  weights_here.zero();
  for_floating(probabilities.dtype(), "expert_choice_gate", [&]<class T>(T) {
    Thresholds<T> threshold(tape, scores, capacity, world);
    const T* p = scores.data<T>();
    T* weights = weights_here.data<T>();
    for (Index token = 0; token < tokens; ++token) {
      Index taken = token * experts;
      for (Index e = 0; e < experts; ++e) {
        const auto i = static_cast<std::size_t>(e);
        const T score = p[token * experts + e];
        const auto bits = std::bit_cast<typename Thresholds<T>::Bits>(score);
        const bool takes = tape.planning() ? token < capacity
                                           : bits > threshold.score[i] ||
                                                 (bits == threshold.score[i] && threshold.left[i]-- > 0);
        if (!takes) continue;
        chosen[taken] = static_cast<std::int32_t>(e);
        weights[taken++] = score;
      }
    }
  });
  functions::Gate gate{tape.on_device(experts_here),
                       tape.output({tokens, experts}, probabilities.dtype(), {&probabilities})};
  gate.weights.queue_copy_from(weights_here);
  tape.record("expert_choice_gate", {&probabilities}, {&gate.weights}, [=](Tape& tape) {
    const Tensor dweights = tape.on_host(tape.gradient(gate.weights)),
                 d = tape.arena().empty_on_host(dweights.shape(), dweights.dtype());
    d.zero();
    for_floating(d.dtype(), "expert_choice_gate", [&]<class T>(T) {
      const std::int32_t* chosen = experts_here.data<std::int32_t>();
      for (Index i = 0; i < tokens * experts; ++i)
        if (chosen[i] >= 0) d.data<T>()[i / experts * experts + chosen[i]] = dweights.data<T>()[i];
    });
    const auto [dprobabilities, write] = tape.into(probabilities);
    kernels::scale(tape.on_device(d), 1.0, dprobabilities, write);
  });
  return gate;
}

}  // namespace conclave
