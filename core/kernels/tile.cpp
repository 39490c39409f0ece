#include "core/kernels/tile.h"

#include <algorithm>

namespace conclave::kernels {

bool has_wide_vectors() {
#ifdef CONCLAVE_WIDE_VECTORS
  static const bool has = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
                          __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq");
  return has;
#else
  return false;
#endif
}

template <class T>
void tiles::narrow_product(Index m, Index n, Index k, const T* a, Index a_row, Index a_column, const T* b,
                           Index b_row, T* c, Index c_row, bool accumulate) {
  Index j = 0;
  for (; j + 2 * kLanes<T> <= n; j += 2 * kLanes<T>)
    rows<T, 32, 2, kTileRows>(m, k, a, a_row, a_column, b + j, b_row, c + j, c_row, accumulate);
  if (j + kLanes<T> <= n) {
    rows<T, 32, 1, kTileRows>(m, k, a, a_row, a_column, b + j, b_row, c + j, c_row, accumulate);
    j += kLanes<T>;
  }
  if (j == n) return;
  for (Index i = 0; i < m; ++i) {
    T* to = c + i * c_row;
    if (!accumulate) std::fill(to + j, to + n, T(0));
    for (Index x = 0; x < k; ++x)
      for (Index column = j; column < n; ++column)
        to[column] += a[i * a_row + x * a_column] * b[x * b_row + column];
  }
}

template <class T>
void tile_product(Index m, Index n, Index k, const T* a, Index a_row, Index a_column, const T* b, Index b_row,
                  T* c, Index c_row, bool accumulate) {
  Index wide = 0;
#ifdef CONCLAVE_WIDE_VECTORS
  if (has_wide_vectors()) {
    wide = n / kTileColumns<T> * kTileColumns<T>;
    tiles::wide_product(m, wide, k, a, a_row, a_column, b, b_row, c, c_row, accumulate);
    if (wide == n) return;
  }
#endif
  tiles::narrow_product(m, n - wide, k, a, a_row, a_column, b + wide, b_row, c + wide, c_row, accumulate);
}

template void tiles::narrow_product(Index, Index, Index, const float*, Index, Index, const float*, Index,
                                    float*, Index, bool);
template void tiles::narrow_product(Index, Index, Index, const double*, Index, Index, const double*, Index,
                                    double*, Index, bool);
template void tile_product(Index, Index, Index, const float*, Index, Index, const float*, Index, float*,
                           Index, bool);
template void tile_product(Index, Index, Index, const double*, Index, Index, const double*, Index, double*,
                           Index, bool);

}  // namespace conclave::kernels
