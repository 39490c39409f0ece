// The loop that all tiles of integer sums on processors share. A `Quad` multiplies four inputs by the four
// weights of each channel in a vector. This code calls nothing of the standard library; see tile_wide.cpp.
#pragma once

#include <cstring>

#include "core/kernels/integer_product.h"

namespace conclave::kernels::integer_tiles {

/// R rows and V vectors of sums. Quad::Vector is a vector of 32-bit sums.
template <class Quad, int R, int V>
[[gnu::always_inline]] inline void tile(Index quads, const std::uint8_t* x, Index row_bytes,
                                        const std::int8_t* const (&weights)[V], std::int32_t* sums,
                                        Index sum_row) {
  using Vector = typename Quad::Vector;
  constexpr Index kStep = IntegerWeights::kPanel * IntegerWeights::kQuad;
  Vector acc[R][V];
#pragma GCC unroll 12
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) acc[r][v] = Vector{};
  // Prefetch the next panels, whose first rows would otherwise wait for memory.
  constexpr Index kPanels = V * sizeof(Vector) / (IntegerWeights::kPanel * sizeof(std::int32_t));
  const std::int8_t* next = weights[0] + kPanels * quads * kStep;
  for (Index q = 0; q < quads; ++q) {
#pragma GCC unroll 2
    for (Index panel = 0; panel < kPanels; ++panel)
      __builtin_prefetch(next + (panel * quads + q) * kStep, 0, 2);
    Vector w[V];
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) std::memcpy(&w[v], weights[v] + q * kStep, sizeof(Vector));
#pragma GCC unroll 12
    for (int r = 0; r < R; ++r) {
      std::int32_t four;
      std::memcpy(&four, x + r * row_bytes + q * IntegerWeights::kQuad, sizeof four);
      const auto inputs = Quad::broadcast(four);
#pragma GCC unroll 2
      for (int v = 0; v < V; ++v) acc[r][v] = Quad::add_products(acc[r][v], inputs, w[v]);
    }
  }
  constexpr Index kLanes = sizeof(Vector) / sizeof(std::int32_t);
#pragma GCC unroll 12
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) std::memcpy(sums + r * sum_row + v * kLanes, &acc[r][v], sizeof(Vector));
}

/// All rows, R at a time; the rest in ever smaller tiles.
template <class Quad, int R, int V>
void rows_of(Index rows, Index quads, const std::uint8_t* x, Index row_bytes,
             const std::int8_t* const (&weights)[V], std::int32_t* sums, Index sum_row) {
  Index row = 0;
  for (; row + R <= rows; row += R)
    tile<Quad, R, V>(quads, x + row * row_bytes, row_bytes, weights, sums + row * sum_row, sum_row);
  if constexpr (R > 1)
    if (row < rows)
      rows_of<Quad, R / 2, V>(rows - row, quads, x + row * row_bytes, row_bytes, weights,
                              sums + row * sum_row, sum_row);
}

}  // namespace conclave::kernels::integer_tiles
