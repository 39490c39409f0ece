// Kernels that use common features of CUDA, for the tests of the emulated device. They compile with nvcc,
// too.
#pragma once

#include <cooperative_groups.h>
#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include "core/cuda/shared_memory.h"

namespace conclave::trial {

constexpr int kWarp = 32;

__device__ inline float sum_of_warp(float value) {
#pragma unroll
  for (int distance = kWarp / 2; distance > 0; distance /= 2)
    value += __shfl_xor_sync(0xffffffffu, value, distance);
  return value;
}

/// Sum over a block of whole warps, for all of its threads.
__device__ inline float sum_of_block(float value) {
  __shared__ float of_warps[kWarp];
  const unsigned lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  value = sum_of_warp(value);
  __syncthreads();  // threads may still read of_warps for the previous sum
  if (lane == 0) of_warps[warp] = value;
  __syncthreads();
  return sum_of_warp(lane < blockDim.x / kWarp ? of_warps[lane] : 0.0f);
}

__device__ inline float gelu(float x) { return 0.5f * x * (1.0f + erff(x * 0.70710678f)); }

__device__ inline void store(float* to, float value) { *to = value; }
__device__ inline void store(__nv_bfloat16* to, float value) { *to = __float2bfloat16(value); }

/// y = gelu(normalize(x) * scale + shift) with a block for each row of x [rows, columns].
template <class T>
__global__ void __launch_bounds__(256)
    layer_norm_gelu(const float* __restrict__ x, const float* __restrict__ scale,
                    const float* __restrict__ shift, T* __restrict__ y, int columns) {
  const float* const row = x + static_cast<long long>(blockIdx.x) * columns;
  float sum = 0, squares = 0;
  for (int i = static_cast<int>(threadIdx.x); i < columns; i += static_cast<int>(blockDim.x)) sum += row[i];
  const float mean = sum_of_block(sum) / static_cast<float>(columns);
  for (int i = static_cast<int>(threadIdx.x); i < columns; i += static_cast<int>(blockDim.x))
    squares += (row[i] - mean) * (row[i] - mean);
  const float inverse = rsqrtf(sum_of_block(squares) / static_cast<float>(columns) + 1e-5f);
  for (int i = static_cast<int>(threadIdx.x); i < columns; i += static_cast<int>(blockDim.x))
    store(y + static_cast<long long>(blockIdx.x) * columns + i,
          gelu((row[i] - mean) * inverse * __ldg(scale + i) + __ldg(shift + i)));
}

constexpr int kTile = 16;

/// c [n, n] = a [n, n] b [n, n] by tiles in shared memory. With kBarrier = false, one barrier is missing: a
/// planted mistake.
template <bool kBarrier>
__global__ void tiled_product(const float* a, const float* b, float* c, int n) {
  __shared__ float of_a[kTile][kTile + 1], of_b[kTile][kTile + 1];
  const int x = static_cast<int>(threadIdx.x), y = static_cast<int>(threadIdx.y);
  const int row = static_cast<int>(blockIdx.y) * kTile + y, column = static_cast<int>(blockIdx.x) * kTile + x;
  float sum = 0;
  for (int k = 0; k < n; k += kTile) {
    of_a[y][x] = row < n && k + x < n ? a[row * n + k + x] : 0.0f;
    of_b[y][x] = column < n && k + y < n ? b[(k + y) * n + column] : 0.0f;
    if (kBarrier) __syncthreads();
    for (int i = 0; i < kTile; ++i) sum += of_a[y][i] * of_b[i][x];
    __syncthreads();
  }
  if (row < n && column < n) c[row * n + column] = sum;
}

/// counts [bins] += the number of values [count] in each bin; uses shared memory of `bins` ints.
[[maybe_unused]] __global__ static void histogram(const int* values, int count, int* counts, int bins) {
  int* const mine = cuda::shared_memory<int>();
  for (int bin = static_cast<int>(threadIdx.x); bin < bins; bin += static_cast<int>(blockDim.x))
    mine[bin] = 0;
  __syncthreads();
  for (int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x); i < count;
       i += static_cast<int>(gridDim.x * blockDim.x))
    atomicAdd(&mine[values[i]], 1);
  __syncthreads();
  for (int bin = static_cast<int>(threadIdx.x); bin < bins; bin += static_cast<int>(blockDim.x))
    atomicAdd(&counts[bin], mine[bin]);
}

/// For every eight of values [count], by tiles of a warp: sums [count / 8] gets their sum, above [count / 8]
/// the number of values over 4.
[[maybe_unused]] __global__ static void sums_of_eights(const int* values, int* sums, int* above) {
  const auto block = cooperative_groups::this_thread_block();
  const auto tile = cooperative_groups::tiled_partition<8>(block);
  const unsigned i = blockIdx.x * blockDim.x + block.thread_rank();
  const int mine = values[i];
  int sum = mine;
  for (unsigned distance = tile.size() / 2; distance > 0; distance /= 2) sum += tile.shfl_down(sum, distance);
  const unsigned over = tile.ballot(mine > 4);
  if (tile.thread_rank() != 0) return;
  sums[i / tile.size()] = sum;
  above[i / tile.size()] = __popc(over);
}

/// y [4 fours] += x [4 fours], four floats at a time.
[[maybe_unused]] __global__ static void add_fours(const float4* x, float4* y, int fours) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i >= fours) return;
  const float4 left = x[i], right = y[i];
  y[i] = make_float4(left.x + right.x, left.y + right.y, left.z + right.z, left.w + right.w);
}

}  // namespace conclave::trial
