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
    std::uint32_t one[4][1];
    blocks(block, one);
    return {one[0][0], one[1][0], one[2][0], one[3][0]};
  }

  /// N consecutive blocks at once, which the compiler computes in vectors: c[i][b] receives word i of block
  /// number first + b. Arrays of the language, as device code cannot index a std::array.
  template <std::size_t N>
  CONCLAVE_HOST_DEVICE void blocks(std::uint64_t first, std::uint32_t (&c)[4][N]) const {
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
        const std::uint64_t p0 = std::uint64_t{0xD2511F53u} * c[0][b],
                            p1 = std::uint64_t{0xCD9E8D57u} * c[2][b];
        const std::uint32_t n0 = static_cast<std::uint32_t>(p1 >> 32) ^ c[1][b] ^ k0;
        const std::uint32_t n2 = static_cast<std::uint32_t>(p0 >> 32) ^ c[3][b] ^ k1;
        c[1][b] = static_cast<std::uint32_t>(p1);
        c[3][b] = static_cast<std::uint32_t>(p0);
        c[0][b] = n0;
        c[2][b] = n2;
      }
      k0 += 0x9E3779B9u;
      k1 += 0xBB67AE85u;
    }
  }

  /// Uniform in [0, 1), value number `index`.
  double uniform(std::uint64_t index) const {
    const auto word = bits(index / 2);
    const std::uint64_t wide = std::uint64_t{word[index % 2 * 2]} << 32 | word[index % 2 * 2 + 1];
    return static_cast<double>(wide >> 11) * 0x1p-53;
  }

  /// Standard normal by Box-Muller, value number `index`.
  double normal(std::uint64_t index) const {
    const double radius = std::sqrt(-2.0 * std::log(1.0 - uniform(index * 2)));
    return radius * std::cos(6.283185307179586 * uniform(index * 2 + 1));
  }

  /// Uniform in {0, ..., bound - 1}; the bias of the modulo is below bound / 2^64.
  std::uint64_t below(std::uint64_t bound, std::uint64_t index) const {
    const auto word = bits(index / 2);
    return (std::uint64_t{word[index % 2 * 2]} << 32 | word[index % 2 * 2 + 1]) % bound;
  }
};

}  // namespace conclave
