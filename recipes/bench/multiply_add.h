// Measures a processor's peak: independent multiply-adds in vectors of 32 bytes (AVX2) or 64 bytes (AVX-512).
#pragma once

#include "core/kernels/tile.h"

namespace conclave::bench {

// A fused multiply-add takes 4 to 5 cycles and two start in each cycle: 10 independent chains keep both units
// busy, 12 leave slack for the scheduler and still fit into 16 registers together with the two factors.
constexpr int kChains = 12;
constexpr int kRounds = 10'000'000;  // about 20 ms

/// Computes x -> factor x + addend kRounds times for each of kChains vectors of kBytes. Returns the sum of
/// all elements at the end.
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
