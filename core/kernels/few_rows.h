// y = x W^T in which a row does not depend on the other rows. For few rows, BLAS would spend as much time on
// packing the weight as on products: few_rows_product() reads every weight once, in place, and transposes x
// instead. For more rows, many_rows_product() transposes the weight. Both add up a row's sums in the same
// order.
#pragma once

#include <algorithm>

#include "core/kernels/tile.h"

namespace conclave::kernels {

/// The most rows and outputs of one call of few_rows_product(), which keeps the transposed results on the
/// stack.
constexpr Index kFewRows = 64;
/// The best number of rows for one call of many_rows_product(): with their output they fit the second-level
/// cache.
constexpr Index kManyRows = 384;
template <class T>
inline constexpr Index kFewOutputs = 4096 / sizeof(T);

namespace few_rows {

// The part of the inner dimension that is processed at a time: of this depth, a tile's columns of x and the
// outputs' weights fit the first-level cache together.
constexpr Index kDepth = 256;

/// Columns of a panel: two vectors of the width that this processor has.
template <class T>
Index panel_columns() {
  return has_wide_vectors() ? 2 * kTileColumns<T> : kTileColumns<T>;
}

/// to [columns, stride] = from [rows, columns]^T; columns of `to` up to the next multiple of kLanes are zero.
template <class T>
void transpose_rows(Index rows, Index columns, const T* from, Index from_row, T* to, Index stride) {
  constexpr Index n = kLanes<T>;
  for (Index row = 0; row < rows; row += n) {
    const Index present = std::min(n, rows - row);
    Index column = 0;
    for (; column + n <= columns; column += n) {
      Vector<T> square[n] = {};
      for (Index i = 0; i < present; ++i) square[i] = load(from + (row + i) * from_row + column);
      transpose<T>(square);
      for (Index i = 0; i < n; ++i) store(to + (column + i) * stride + row, square[i]);
    }
    for (; column < columns; ++column)
      for (Index i = 0; i < n; ++i)
        to[column * stride + row + i] = i < present ? from[(row + i) * from_row + column] : T(0);
  }
}

/// to [rows, columns] = from [columns, stride]^T + bias [columns] (or null).
template <class T>
void transpose_back(Index rows, Index columns, const T* from, Index stride, const T* bias, T* to,
                    Index to_row) {
  constexpr Index n = kLanes<T>;
  const Index whole = columns / n * n;
  for (Index row = 0; row < rows; row += n) {  // row by row, so that whole cache lines are written
    for (Index column = 0; column < whole; column += n) {
      Vector<T> square[n];
      for (Index i = 0; i < n; ++i) square[i] = load(from + (column + i) * stride + row);
      transpose<T>(square);
      const Vector<T> added = bias ? load(bias + column) : Vector<T>{};
      for (Index i = 0; i < std::min(n, rows - row); ++i)
        store(to + (row + i) * to_row + column, square[i] + added);
    }
  }
  for (Index row = 0; row < rows; ++row)
    for (Index column = whole; column < columns; ++column)
      to[row * to_row + column] = from[column * stride + row] + (bias ? bias[column] : T(0));
}

}  // namespace few_rows

/// y [rows, outputs] = x [rows, in] weight [outputs, in]^T + bias [outputs] (or null); rows of y are y_row
/// apart.
template <class T>
void few_rows_product(Index rows, Index outputs, Index in, const T* x, const T* weight, const T* bias, T* y,
                      Index y_row) {
  using namespace few_rows;
  const Index panel = panel_columns<T>(), block = has_wide_vectors() ? 16 : 12;  // outputs at a time
  alignas(64) T columns[kDepth * kFewRows], sums[kFewOutputs<T> * kFewRows];     // x and y, transposed
  const Index stride = (rows + kLanes<T> - 1) / kLanes<T> * kLanes<T>;
  if (in == 0) std::fill_n(sums, outputs * stride, T(0));
  for (Index first = 0; first < in; first += kDepth) {
    const Index depth = std::min(kDepth, in - first);
    for (Index row = 0; row < rows; row += panel)
      transpose_rows(std::min(panel, rows - row), depth, x + row * in + first, in, columns + row * depth,
                     panel);
    for (Index output = 0; output < outputs; output += block) {
      const Index count = std::min(block, outputs - output);
      // Prefetch the next weights while these are multiplied, some rows at a time.
      const bool deeper = output + block >= outputs;
      const T* next = deeper ? weight + first + depth : weight + (output + block) * in + first;
      const Index next_depth = deeper ? std::min(kDepth, in - first - depth) : depth;
      const Index next_rows = std::min(block, deeper ? outputs : outputs - output - block);
      const Index tiles = (stride + panel - 1) / panel, some = (next_rows + tiles - 1) / tiles;
      Index ahead = 0;
      for (Index row = 0; row < stride; row += panel) {
        for (const Index end = std::min(ahead + some, next_rows); ahead < end; ++ahead)
          for (Index i = 0; i < next_depth; i += 64 / static_cast<Index>(sizeof(T)))
            __builtin_prefetch(next + ahead * in + i, 0, 2);
        tile_product(count, std::min(panel, stride - row), depth, weight + output * in + first, in, Index{1},
                     columns + row * depth, panel, sums + output * stride + row, stride, first > 0);
      }
    }
  }
  transpose_back(rows, outputs, sums, stride, bias, y, y_row);
}

/// Like few_rows_product(), for any number of rows; outputs must be whole vectors. The weight is transposed
/// in panels of panel_columns() outputs. `packed`: `weight` already consists of such panels; see
/// pack_weight().
template <class T, bool packed>
void many_rows_product(Index rows, Index outputs, Index in, const T* x, const T* weight, const T* bias, T* y,
                       Index y_row) {
  using namespace few_rows;
  constexpr Index kMost = 2 * kTileColumns<T>;
  alignas(64) T columns[packed ? 1 : kDepth * kMost];
  for (Index output = 0, count = 0; output < outputs; output += count) {
    count = std::min(panel_columns<T>(), outputs - output);
    for (Index first = 0; first == 0 || first < in; first += kDepth) {
      const Index depth = std::min(kDepth, in - first);
      const T* panel = columns;
      if constexpr (packed)
        panel = weight + output * in + first * count;
      else
        transpose_rows(count, depth, weight + output * in + first, in, columns, count);
      tile_product(rows, count, depth, x + first, in, Index{1}, panel, count, y + output, y_row, first > 0);
    }
    if (!bias) continue;
    for (T *to = y + output, *end = to + rows * y_row; to != end; to += y_row)
      for (Index i = 0; i < count; i += kLanes<T>) store(to + i, load(to + i) + load(bias + output + i));
  }
}

}  // namespace conclave::kernels
