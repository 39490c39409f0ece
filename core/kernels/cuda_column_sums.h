// Sums over all rows, for each column, in an order that depends on the shape alone: blocks sum chunks of
// rows, and a second kernel adds up the chunks. For .cu files.
#pragma once

#include <array>

#include "core/cuda/scratch.h"
#include "core/kernels/cuda_kernel.h"

namespace conclave::kernels::cuda {

namespace column_sums_detail {

inline constexpr Index kChunks = 64;      // the most, with which 16 tiles of columns fill a device
inline constexpr Index kChunkRows = 128;  // the fewest, so that the second kernel has little to do
inline constexpr int kRows = kBlock / kWarp;

// partial [chunk, sum, column]. A block handles kWarp columns of one chunk, kRows rows at a time.
template <class T, int kSums, class Terms>
__global__ void __launch_bounds__(kBlock)
    chunk_sums_kernel(Index rows, Index columns, Terms terms, T* partial) {
  __shared__ T shared[kSums][kRows][kWarp];
  const Index chunk = blockIdx.y, chunks = gridDim.y;
  const Index column = Index{blockIdx.x} * kWarp + threadIdx.x;
  T sums[kSums] = {};
  if (column < columns)
    for (Index row = rows * chunk / chunks + threadIdx.y, end = rows * (chunk + 1) / chunks; row < end;
         row += kRows)
      terms(row, column, sums);
  for (int s = 0; s < kSums; ++s) shared[s][threadIdx.y][threadIdx.x] = sums[s];
  __syncthreads();
  if (column >= columns || threadIdx.y >= kSums) return;
  const int s = static_cast<int>(threadIdx.y);
  T sum = 0;
  for (int row = 0; row < kRows; ++row) sum += shared[s][row][threadIdx.x];
  partial[(chunk * kSums + s) * columns + column] = sum;
}

template <class T, int kSums>
struct AddChunks {
  Index chunks, columns;
  const T* partial;
  T* to[kSums];
  template <int kWidth>
  __device__ void at(Index column) const {
    for (int s = 0; s < kSums; ++s) {
      T sum = 0;
      for (Index chunk = 0; chunk < chunks; ++chunk) sum += partial[(chunk * kSums + s) * columns + column];
      to[s][column] += sum;
    }
  }
};

}  // namespace column_sums_detail

/// to[s] [columns] += the sum over all rows of what terms(row, column, sums) adds to sums[s].
template <class T, int kSums, class Terms>
void add_column_sums(const char* operation, Index rows, Index columns, const Terms& terms,
                     const std::array<T*, kSums>& to) {
  using namespace column_sums_detail;
  static_assert(kSums <= kRows);
  if (rows == 0 || columns == 0) return;
  const Index chunks = std::min(kChunks, (rows + kChunkRows - 1) / kChunkRows);
  conclave::cuda::Scratch scratch;
  T* partial = scratch.array<T>(chunks * kSums * columns);
  launch(operation, chunk_sums_kernel<T, kSums, Terms>,
         {.grid = dim3(static_cast<unsigned>((columns + kWarp - 1) / kWarp), static_cast<unsigned>(chunks)),
          .block = dim3(kWarp, kRows)},
         rows, columns, terms, partial);
  AddChunks<T, kSums> add{chunks, columns, partial, {}};
  for (std::size_t s = 0; s < kSums; ++s) add.to[s] = to[s];
  for_items(operation, columns, add);
}

}  // namespace conclave::kernels::cuda
