// Products of tiles in shared memory, by blocks of kSide x kSide threads with each its own part of the result
// in registers. For .cu files.
#pragma once

#include "core/kernels/cuda_kernel.h"

namespace conclave::kernels::cuda {

inline constexpr int kSide = 16;
static_assert(kSide * kSide == kBlock);

/// Elements from one row of a tile to the next, of rows of so many `columns`, whole packs of an even number:
/// with one pack more, an odd number of them, the same pack of eight neighbouring rows is in eight different
/// places of the memory's 128 bytes, and is read at once.
template <class T>
constexpr int tile_stride(int columns) {
  return columns + kPackWidth<T>;
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
