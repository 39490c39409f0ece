// Products of tiles that fit the registers, of which larger products consist. A tile of c has up to six rows
// of two vectors; each step of the inner loop loads a row of b, and broadcasts the elements of a column of a
// (Goto & van de Geijn 2008, section 6). It uses the compiler's own vector types, so that the source is the
// same for every processor. With AVX-512, a tile has up to eight rows of two vectors twice as wide, or twelve
// rows of one: the same sums in the same order.
#pragma once

#include <cstring>

#include "core/tensor.h"

namespace conclave::kernels {

template <class T, int kBytes = 32>
struct VectorOf {
  using type [[gnu::vector_size(kBytes)]] = T;
};
/// 32 bytes of T: a register of AVX2; the compiler splits it into two or four where registers are smaller.
template <class T, int kBytes = 32>
using Vector = typename VectorOf<T, kBytes>::type;
template <class T, int kBytes = 32>
inline constexpr Index kLanes = kBytes / sizeof(T);

/// Whether code for vectors of 64 bytes was built and this processor has them (AVX-512).
bool has_wide_vectors();

constexpr Index kTileRows = 6;
template <class T>
inline constexpr Index kTileColumns = 2 * kLanes<T>;

template <class T, int kBytes = 32>
[[gnu::always_inline]] inline Vector<T, kBytes> load(const T* from) {
  Vector<T, kBytes> v;
  std::memcpy(&v, from, sizeof v);
  return v;
}
template <class T, int kBytes = 32>
[[gnu::always_inline]] inline void store(T* to, Vector<T, kBytes> v) {
  std::memcpy(to, &v, sizeof v);
}

/// Transposes kLanes rows of one vector each: rows[i][j] <-> rows[j][i].
template <class T>
[[gnu::always_inline]] inline void transpose(Vector<T> (&rows)[kLanes<T>]) {
  // Interleaving row i with row i + n/2 for all i rotates the bits of an element's number (row, column) by
  // one. After log2 n rotations, rows and columns have changed places.
  constexpr Index n = kLanes<T>;
  for (Index stage = 1; stage < n; stage *= 2) {
    Vector<T> next[n];
    for (Index i = 0; i < n / 2; ++i) {
      const Vector<T> a = rows[i], b = rows[i + n / 2];
      if constexpr (n == 8) {
        next[2 * i] = __builtin_shufflevector(a, b, 0, 8, 1, 9, 2, 10, 3, 11);
        next[2 * i + 1] = __builtin_shufflevector(a, b, 4, 12, 5, 13, 6, 14, 7, 15);
      } else {
        next[2 * i] = __builtin_shufflevector(a, b, 0, 4, 1, 5);
        next[2 * i + 1] = __builtin_shufflevector(a, b, 2, 6, 3, 7);
      }
    }
    for (Index i = 0; i < n; ++i) rows[i] = next[i];
  }
}

/// c [m, n] (=, +=) a [m, k] b [k, n]. Element (i, j) of a is at a[i a_row + j a_column]; rows of b and c are
/// contiguous. Nothing is packed, so the operands should be in the first-level cache.
template <class T>
void tile_product(Index m, Index n, Index k, const T* a, Index a_row, Index a_column, const T* b, Index b_row,
                  T* c, Index c_row, bool accumulate);

namespace tiles {

// acc [R rows, V vectors] = a [R, k] b [k, V vectors]
template <class T, int kBytes, int R, int V>
[[gnu::always_inline]] inline void multiply(Index k, const T* a, Index a_row, Index a_column, const T* b,
                                            Index b_row, Vector<T, kBytes> (&acc)[R][V]) {
#pragma GCC unroll 12
  for (int r = 0; r < R; ++r)
    for (int v = 0; v < V; ++v) acc[r][v] = Vector<T, kBytes>{};
#pragma GCC unroll 4
  for (Index i = 0; i < k; ++i) {
    Vector<T, kBytes> row[V];
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) row[v] = load<T, kBytes>(b + i * b_row + v * kLanes<T, kBytes>);
#pragma GCC unroll 12
    for (int r = 0; r < R; ++r) {
      const Vector<T, kBytes> element = Vector<T, kBytes>{} + a[r * a_row + i * a_column];
#pragma GCC unroll 2
      for (int v = 0; v < V; ++v) acc[r][v] += element * row[v];
    }
  }
}

template <class T, int kBytes, int R, int V>
void product(Index k, const T* a, Index a_row, Index a_column, const T* b, Index b_row, T* c, Index c_row,
             bool accumulate) {
  Vector<T, kBytes> acc[R][V];
  multiply<T, kBytes, R, V>(k, a, a_row, a_column, b, b_row, acc);
#pragma GCC unroll 12
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) {
      T* to = c + r * c_row + v * kLanes<T, kBytes>;
      store<T, kBytes>(to, accumulate ? acc[r][v] + load<T, kBytes>(to) : acc[r][v]);
    }
}

/// The m rows of V vectors of a product, kRows of them at a time.
template <class T, int kBytes, int V, int kRows>
void rows(Index m, Index k, const T* a, Index a_row, Index a_column, const T* b, Index b_row, T* c,
          Index c_row, bool accumulate) {
  Index i = 0;
  for (; i + kRows <= m; i += kRows)
    product<T, kBytes, kRows, V>(k, a + i * a_row, a_row, a_column, b, b_row, c + i * c_row, c_row,
                                 accumulate);
  const auto last = [&]<int R>(auto&& self) {
    if constexpr (R > 0) {
      if (m - i == R)
        product<T, kBytes, R, V>(k, a + i * a_row, a_row, a_column, b, b_row, c + i * c_row, c_row,
                                 accumulate);
      else
        self.template operator()<R - 1>(self);
    }
  };
  last.template operator()<kRows - 1>(last);
}

/// tile_product in vectors of 32 bytes, and in vectors of 64 bytes, where n must be a multiple of their
/// lanes.
template <class T>
void narrow_product(Index m, Index n, Index k, const T* a, Index a_row, Index a_column, const T* b,
                    Index b_row, T* c, Index c_row, bool accumulate);
template <class T>
void wide_product(Index m, Index n, Index k, const T* a, Index a_row, Index a_column, const T* b, Index b_row,
                  T* c, Index c_row, bool accumulate);

}  // namespace tiles

}  // namespace conclave::kernels
