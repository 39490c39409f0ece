// Compiled for AVX-512 with VNNI, as tile_wide.cpp is for AVX-512.
#ifdef CONCLAVE_WIDE_VECTORS

#include <immintrin.h>

#include "core/kernels/integer_tiles.h"

namespace conclave::kernels::integer_tiles {
namespace {

// Sixteen channels: a panel.
struct Sixteen {
  using Vector = __m512i;
  static Vector broadcast(std::int32_t four) { return _mm512_set1_epi32(four); }
  static Vector add_products(Vector sums, Vector inputs, Vector weights) {
    return _mm512_dpbusd_epi32(sums, inputs, weights);
  }
};

}  // namespace

void vnni(Index rows, Index panels, Index quads, const std::uint8_t* x, Index row_bytes,
          const std::int8_t* weights, std::int32_t* sums, Index sum_row) {
  constexpr Index kPanel = IntegerWeights::kPanel;
  const Index panel_bytes = quads * kPanel * IntegerWeights::kQuad;
  Index panel = 0;
  for (; panel + 2 <= panels; panel += 2) {
    const std::int8_t* at = weights + panel * panel_bytes;
    rows_of<Sixteen, 8, 2>(rows, quads, x, row_bytes, {at, at + panel_bytes}, sums + panel * kPanel, sum_row);
  }
  if (panel < panels)
    rows_of<Sixteen, 8, 1>(rows, quads, x, row_bytes, {weights + panel * panel_bytes}, sums + panel * kPanel,
                           sum_row);
}

}  // namespace conclave::kernels::integer_tiles

#endif
