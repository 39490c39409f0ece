// Products of tiles in shared memory, by blocks of kSide x kSide threads with each its own part of the result
// in registers. For .cu files.
#pragma once

#include "core/kernels/cuda_kernel.h"

namespace conclave::kernels::cuda {

inline constexpr int kSide = 16;
static_assert(kSide * kSide == kBlock);

/// Elements from one row of a tile to the next, where rows have kColumns, whole packs of an even number: with
/// one pack more, an odd number, the same pack of eight neighbouring rows is in eight different places of
/// the memory's 128 bytes, and is read at once.
template <class T, int kColumns>
inline constexpr int kTileStride = kColumns + kPackWidth<T>;

/// A pack of a row of so many `columns`; zeros beyond them, and where the row is null. `packed`: the rows
/// divide into packs and begin where packs do.
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

/// sums[i][j] += row i of a times row j of b, the first `packs` packs of them; from one row to the next are
/// `a_step` and `b_step` elements.
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
