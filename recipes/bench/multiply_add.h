// What a processor computes at most: independent multiply-adds, in vectors of 32 bytes (AVX2) or 64
// (AVX-512).
#pragma once

#include "core/kernels/tile.h"

namespace conclave::bench {

// A fused multiply-add takes 4 to 5 cycles and two start in each: 10 independent ones keep both units busy,
// 12 leave room for the scheduler, and with the two factors still fit 16 registers.
constexpr int kChains = 12;
constexpr int kRounds = 10'000'000;  // some 20 ms

/// x -> factor x + addend of kRounds times kChains vectors of kBytes. Returns the sum of the last.
template <int kBytes>
float multiply_add(float factor, float addend) {
  using Vector = kernels::Vector<float, kBytes>;
  const Vector a = Vector{} + factor, b = Vector{} + addend;
  Vector x[kChains];
  for (int i = 0; i < kChains; ++i) x[i] = b * static_cast<float>(i);
  for (int round = 0; round < kRounds; ++round)
#pragma GCC unroll 12
    for (Vector& chain : x) chain = chain * a + b;
  Vector sum{};
  for (const Vector& chain : x) sum += chain;
  float total = 0;
  for (int i = 0; i < kernels::kLanes<float, kBytes>; ++i) total += sum[i];
  return total;
}

extern template float multiply_add<64>(float factor, float addend);

}  // namespace conclave::bench
