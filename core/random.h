// Counter-based random numbers: value number i of a stream is a pure function of (seed, step, tensor, i), so
// the same numbers come on any number of threads and ranks, and a resumed run continues exactly.
// Philox4x32-10: Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011.
// Not for keys or privacy noise; those come from a cryptographic generator.
#pragma once

#include <array>
#include <cmath>
#include <cstdint>

#include "core/host_device.h"

namespace conclave {

/// One stream of random numbers. `tensor` tells apart the uses within one step (each dropout, each
/// initializer).
struct RandomStream {
  std::uint64_t seed = 0;
  std::uint32_t step = 0;
  std::uint32_t tensor = 0;

  /// 128 random bits, number `block` of the stream.
  std::array<std::uint32_t, 4> bits(std::uint64_t block) const {
    const Blocks<1> one = blocks<1>(block);
    return {one[0][0], one[1][0], one[2][0], one[3][0]};
  }

  /// [i][b] is word i of block number first + b. Not a std::array, which device code cannot index. Accessed
  /// by an operator, because GCC 12 does not vectorize the rounds on a plain array of arrays.
  template <std::size_t N>
  struct Blocks {
    std::uint32_t words[4][N];
    CONCLAVE_HOST_DEVICE std::uint32_t* operator[](std::size_t i) { return words[i]; }
    CONCLAVE_HOST_DEVICE const std::uint32_t* operator[](std::size_t i) const { return words[i]; }
  };
  /// N consecutive blocks at once, which the compiler computes in vectors.
  template <std::size_t N>
  CONCLAVE_HOST_DEVICE Blocks<N> blocks(std::uint64_t first) const {
    Blocks<N> c;
    for (std::size_t b = 0; b < N; ++b) {
      c[0][b] = static_cast<std::uint32_t>(first + b);
      c[1][b] = static_cast<std::uint32_t>((first + b) >> 32);
      c[2][b] = step;
      c[3][b] = tensor;
    }
    std::uint32_t k0 = static_cast<std::uint32_t>(seed), k1 = static_cast<std::uint32_t>(seed >> 32);
    for (int round = 0; round < 10; ++round) {
#pragma GCC ivdep
      for (std::size_t b = 0; b < N; ++b) {
        const std::uint32_t c0 = c[0][b], c1 = c[1][b], c2 = c[2][b], c3 = c[3][b];
        const std::uint64_t p0 = std::uint64_t{0xD2511F53u} * c0, p1 = std::uint64_t{0xCD9E8D57u} * c2;
        c[0][b] = static_cast<std::uint32_t>(p1 >> 32) ^ c1 ^ k0;
        c[1][b] = static_cast<std::uint32_t>(p1);
        c[2][b] = static_cast<std::uint32_t>(p0 >> 32) ^ c3 ^ k1;
        c[3][b] = static_cast<std::uint32_t>(p0);
      }
      k0 += 0x9E3779B9u;
      k1 += 0xBB67AE85u;
    }
    return c;
  }

  /// Uniform in [0, 1), value number `index`.
  CONCLAVE_HOST_DEVICE double uniform(std::uint64_t index) const {
    return fraction(blocks<1>(index / 2), index % 2);
  }

  /// Standard normal by Box-Muller, from the uniform values number 2 index and 2 index + 1.
  CONCLAVE_HOST_DEVICE double normal(std::uint64_t index) const {
    const Blocks<1> word = blocks<1>(index);
    const double radius = std::sqrt(-2.0 * std::log(1.0 - fraction(word, 0)));
    return radius * std::cos(6.283185307179586 * fraction(word, 1));
  }

  /// Uniform in {0, ..., bound - 1}; the bias of the modulo is below bound / 2^64.
  std::uint64_t below(std::uint64_t bound, std::uint64_t index) const {
    return wide(blocks<1>(index / 2), index % 2) % bound;
  }

 private:
  /// 64 of a block's 128 bits.
  CONCLAVE_HOST_DEVICE static std::uint64_t wide(const Blocks<1>& word, std::uint64_t half) {
    return std::uint64_t{word[half * 2][0]} << 32 | word[half * 2 + 1][0];
  }

  /// Number `half` of the two values in [0, 1) that a block gives.
  CONCLAVE_HOST_DEVICE static double fraction(const Blocks<1>& word, std::uint64_t half) {
    return static_cast<double>(wide(word, half) >> 11) * 0x1p-53;
  }
};

}  // namespace conclave
