// The parts of CUDA's header of this name that kernels need: the block, and tiles of a warp.
#pragma once

#include <cuda_runtime.h>

namespace cooperative_groups {

class thread_block {
 public:
  static unsigned thread_rank() {
    return threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
  }
  static unsigned num_threads() { return blockDim.x * blockDim.y * blockDim.z; }
  static unsigned size() { return num_threads(); }
  static dim3 group_index() { return {blockIdx.x, blockIdx.y, blockIdx.z}; }
  static dim3 thread_index() { return {threadIdx.x, threadIdx.y, threadIdx.z}; }
  static void sync(ConclaveWhere where = ConclaveWhere::current()) { __syncthreads(where); }
};

inline thread_block this_thread_block() { return {}; }

/// `kSize` adjacent lanes; a power of two, at most a warp.
template <unsigned kSize>
class thread_block_tile {
 public:
  static_assert(kSize <= 32 && (kSize & (kSize - 1)) == 0);
  static unsigned thread_rank() { return thread_block::thread_rank() % kSize; }
  static constexpr unsigned size() { return kSize; }
  static constexpr unsigned num_threads() { return kSize; }
  static unsigned meta_group_rank() { return thread_block::thread_rank() / kSize; }
  static unsigned meta_group_size() { return (thread_block::num_threads() + kSize - 1) / kSize; }
  static void sync(ConclaveWhere where = ConclaveWhere::current()) { __syncwarp(mask(), where); }
  template <class T>
  static T shfl(T value, int source, ConclaveWhere where = ConclaveWhere::current()) {
    return __shfl_sync(mask(), value, source, kSize, where);
  }
  template <class T>
  static T shfl_xor(T value, int bits, ConclaveWhere where = ConclaveWhere::current()) {
    return __shfl_xor_sync(mask(), value, bits, kSize, where);
  }
  template <class T>
  static T shfl_up(T value, unsigned distance, ConclaveWhere where = ConclaveWhere::current()) {
    return __shfl_up_sync(mask(), value, distance, kSize, where);
  }
  template <class T>
  static T shfl_down(T value, unsigned distance, ConclaveWhere where = ConclaveWhere::current()) {
    return __shfl_down_sync(mask(), value, distance, kSize, where);
  }
  static int any(int value, ConclaveWhere where = ConclaveWhere::current()) {
    return __any_sync(mask(), value, where);
  }
  static int all(int value, ConclaveWhere where = ConclaveWhere::current()) {
    return __all_sync(mask(), value, where);
  }
  static unsigned ballot(int value, ConclaveWhere where = ConclaveWhere::current()) {
    return __ballot_sync(mask(), value, where) >> first_lane();
  }

 private:
  static unsigned first_lane() { return thread_block::thread_rank() % 32 / kSize * kSize; }
  static unsigned mask() { return 0xffffffffu >> (32 - kSize) << first_lane(); }
};

template <unsigned kSize>
thread_block_tile<kSize> tiled_partition(const thread_block&) {
  return {};
}

inline void sync(const thread_block&, ConclaveWhere where = ConclaveWhere::current()) {
  __syncthreads(where);
}

}  // namespace cooperative_groups
