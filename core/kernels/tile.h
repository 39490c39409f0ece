// Products of tiles that fit the registers: what larger products are made of. A tile of c has up to six rows
// of two vectors; each step of its inner loop loads a row of b, and broadcasts a column of a, element by
// element (Goto & van de Geijn 2008, section 6). Written with the compiler's own vectors, so that it is the
// same source for every processor.
#pragma once

#include <cstring>

#include "core/tensor.h"

namespace conclave::kernels {

template <class T>
struct VectorOf {
  using type [[gnu::vector_size(32)]] = T;
};
/// 32 bytes of T: a register of AVX2; the compiler makes two or four of it where registers are smaller.
template <class T>
using Vector = typename VectorOf<T>::type;
template <class T>
inline constexpr Index kLanes = 32 / sizeof(T);

constexpr Index kTileRows = 6;
template <class T>
inline constexpr Index kTileColumns = 2 * kLanes<T>;

template <class T>
[[gnu::always_inline]] inline Vector<T> load(const T* from) {
  Vector<T> v;
  std::memcpy(&v, from, sizeof v);
  return v;
}
template <class T>
[[gnu::always_inline]] inline void store(T* to, Vector<T> v) {
  std::memcpy(to, &v, sizeof v);
}

/// rows[i][j] <-> rows[j][i], kLanes rows of one vector each.
template <class T>
[[gnu::always_inline]] inline void transpose(Vector<T> (&rows)[kLanes<T>]) {
  // Interleaving row i with row i + n/2 for all i rotates the bits of an element's number (row, column) by
  // one; log2 n times, and rows and columns have changed places.
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

/// c [m, n] (=, +=) a [m, k] b [k, n]; element (i, j) of a at a[i a_row + j a_column], rows of b and c
/// contiguous. Nothing is packed: for operands in the first-level cache.
template <class T>
void tile_product(Index m, Index n, Index k, const T* a, Index a_row, Index a_column, const T* b, Index b_row,
                  T* c, Index c_row, bool accumulate);

namespace tiles {

// acc [R rows, V vectors] = a [R, k] b [k, V vectors]
template <class T, int R, int V>
[[gnu::always_inline]] inline void multiply(Index k, const T* a, Index a_row, Index a_column, const T* b,
                                            Index b_row, Vector<T> (&acc)[R][V]) {
#pragma GCC unroll 6
  for (int r = 0; r < R; ++r)
    for (int v = 0; v < V; ++v) acc[r][v] = Vector<T>{};
#pragma GCC unroll 4
  for (Index i = 0; i < k; ++i) {
    Vector<T> row[V];
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) row[v] = load(b + i * b_row + v * kLanes<T>);
#pragma GCC unroll 6
    for (int r = 0; r < R; ++r) {
      const Vector<T> element = Vector<T>{} + a[r * a_row + i * a_column];
#pragma GCC unroll 2
      for (int v = 0; v < V; ++v) acc[r][v] += element * row[v];
    }
  }
}

template <class T, int R, int V>
void product(Index k, const T* a, Index a_row, Index a_column, const T* b, Index b_row, T* c, Index c_row,
             bool accumulate) {
  Vector<T> acc[R][V];
  multiply<T, R, V>(k, a, a_row, a_column, b, b_row, acc);
#pragma GCC unroll 6
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) {
      T* to = c + r * c_row + v * kLanes<T>;
      store(to, accumulate ? acc[r][v] + load(to) : acc[r][v]);
    }
}

template <class T, int V>
void rows(Index m, Index k, const T* a, Index a_row, Index a_column, const T* b, Index b_row, T* c,
          Index c_row, bool accumulate) {
  Index i = 0;
  for (; i + kTileRows <= m; i += kTileRows)
    product<T, kTileRows, V>(k, a + i * a_row, a_row, a_column, b, b_row, c + i * c_row, c_row, accumulate);
  const auto last = [&]<int R>() {
    product<T, R, V>(k, a + i * a_row, a_row, a_column, b, b_row, c + i * c_row, c_row, accumulate);
  };
  switch (m - i) {
    case 1:
      return last.template operator()<1>();
    case 2:
      return last.template operator()<2>();
    case 3:
      return last.template operator()<3>();
    case 4:
      return last.template operator()<4>();
    case 5:
      return last.template operator()<5>();
  }
}

}  // namespace tiles

template <class T>
void tile_product(Index m, Index n, Index k, const T* a, Index a_row, Index a_column, const T* b, Index b_row,
                  T* c, Index c_row, bool accumulate) {
  Index j = 0;
  for (; j + 2 * kLanes<T> <= n; j += 2 * kLanes<T>)
    tiles::rows<T, 2>(m, k, a, a_row, a_column, b + j, b_row, c + j, c_row, accumulate);
  if (j + kLanes<T> <= n) {
    tiles::rows<T, 1>(m, k, a, a_row, a_column, b + j, b_row, c + j, c_row, accumulate);
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

}  // namespace conclave::kernels
