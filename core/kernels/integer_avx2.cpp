// Compiled for AVX2, as tile_wide.cpp is for AVX-512.
#ifdef CONCLAVE_AVX2_INTEGERS

#include <immintrin.h>

#include "core/kernels/integer_tiles.h"

namespace conclave::kernels::integer_tiles {
namespace {

// Eight channels: half of a panel.
struct SevenBits {
  using Vector = __m256i;
  static Vector broadcast(std::int32_t four) { return _mm256_set1_epi32(four); }
  static Vector add_products(Vector sums, Vector inputs, Vector weights) {
    const Vector pairs = _mm256_maddubs_epi16(inputs, weights);
    return _mm256_add_epi32(sums, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
  }
};

// 16 bits hold one product of an 8-bit input, but not the sum of two. So even and odd inputs are multiplied
// separately; the other product of each pair is zero.
struct EightBits {
  using Vector = __m256i;
  static Vector broadcast(std::int32_t four) { return _mm256_set1_epi32(four); }
  static Vector add_products(Vector sums, Vector inputs, Vector weights) {
    const Vector low = _mm256_set1_epi16(0xff), ones = _mm256_set1_epi16(1);
    const Vector even = _mm256_maddubs_epi16(_mm256_and_si256(inputs, low), weights),
                 odd = _mm256_maddubs_epi16(_mm256_andnot_si256(low, inputs), weights);
    return _mm256_add_epi32(sums,
                            _mm256_add_epi32(_mm256_madd_epi16(even, ones), _mm256_madd_epi16(odd, ones)));
  }
};

template <class Quad, int R>
void by_panels(Index rows, Index panels, Index quads, const std::uint8_t* x, Index row_bytes,
               const std::int8_t* weights, std::int32_t* sums, Index sum_row) {
  constexpr Index kPanel = IntegerWeights::kPanel, kHalf = kPanel / 2 * IntegerWeights::kQuad;
  for (Index panel = 0; panel < panels; ++panel) {
    const std::int8_t* at = weights + panel * quads * kPanel * IntegerWeights::kQuad;
    rows_of<Quad, R, 2>(rows, quads, x, row_bytes, {at, at + kHalf}, sums + panel * kPanel, sum_row);
  }
}

}  // namespace

void avx2_7_bits(Index rows, Index panels, Index quads, const std::uint8_t* x, Index row_bytes,
                 const std::int8_t* weights, std::int32_t* sums, Index sum_row) {
  by_panels<SevenBits, 4>(rows, panels, quads, x, row_bytes, weights, sums, sum_row);
}

void avx2_8_bits(Index rows, Index panels, Index quads, const std::uint8_t* x, Index row_bytes,
                 const std::int8_t* weights, std::int32_t* sums, Index sum_row) {
  by_panels<EightBits, 4>(rows, panels, quads, x, row_bytes, weights, sums, sum_row);
}

}  // namespace conclave::kernels::integer_tiles

#endif
