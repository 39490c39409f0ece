// Products of tiles in shared memory, by blocks of kSide x kSide threads; each thread keeps its part of the
// result in registers. For .cu files.
#pragma once

#include "core/kernels/cuda_kernel.h"

namespace conclave::kernels::cuda {

inline constexpr int kSide = 16;
static_assert(kSide * kSide == kBlock);

/// The row stride, in elements, of a tile with kColumns columns, which are an even number of packs. One more
/// pack makes the number odd: the same pack of eight adjacent rows then lies at eight different places of the
/// memory's 128-byte lines, and is read at once.
template <class T, int kColumns>
inline constexpr int kTileStride = kColumns + kPackWidth<T>;

/// The pack at `column` of a row of `columns` elements; zeros beyond them, and for a null row. `packed`: rows
/// consist of whole packs and begin at a pack's alignment.
template <class T>
__device__ Pack<T, kPackWidth<T>> load_columns(const T* row, Index column, Index columns, bool packed) {
  constexpr int kPack = kPackWidth<T>;
  Pack<T, kPack> values{};
  if (!row) return values;
  if (packed) {
    if (column < columns) values = load<kPack>(row + column);
  } else {
    for (int n = 0; n < kPack; ++n)
      if (column + n < columns) values.at[n] = row[column + n];
  }
  return values;
}

/// sums[i][j] += the product of row i of a and row j of b over their first `packs` packs. Rows are `a_step`
/// and `b_step` elements apart.
template <int kRows, int kColumns, class T>
__device__ void add_products(const T* a, int a_step, const T* b, int b_step, int packs,
                             T (&sums)[kRows][kColumns]) {
  constexpr int kPack = kPackWidth<T>;
#pragma unroll 1
  for (int pack = 0; pack < packs; ++pack) {
    Pack<T, kPack> left[kRows], right[kColumns];
    for (int i = 0; i < kRows; ++i) left[i] = load<kPack>(a + i * a_step + pack * kPack);
    for (int j = 0; j < kColumns; ++j) right[j] = load<kPack>(b + j * b_step + pack * kPack);
    for (int n = 0; n < kPack; ++n)
      for (int i = 0; i < kRows; ++i)
        for (int j = 0; j < kColumns; ++j) sums[i][j] += left[i].at[n] * right[j].at[n];
  }
}

}  // namespace conclave::kernels::cuda
