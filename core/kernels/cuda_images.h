// How threads divide images whose channels lie together: a block is for some packs of an image's channels,
// one for each threadIdx.x, and for a part, blockIdx.z, of the image's pixels, or of what else there are
// `items` of in it; threads of the same threadIdx.y have one of these at a time. For .cu files.
#pragma once

#include "core/kernels/cuda_kernel.h"

namespace conclave::kernels::cuda {

/// Blocks [images, groups of packs, 1], all of about as many packs.
template <int kWidth>
LaunchShape image_shape(Index images, Index items, Index channels) {
  const Index packs = channels / kWidth, groups = (packs + kWarp - 1) / kWarp,
              width = (packs + groups - 1) / groups;
  return {.grid = dim3(static_cast<unsigned>(images), static_cast<unsigned>(groups)),
          .block = dim3(static_cast<unsigned>(width),
                        static_cast<unsigned>(std::clamp(items, Index{1}, kBlock / width)))};
}

/// Parts of the items where they have nothing to do with each other: some of them for each thread.
inline unsigned independent_parts(const LaunchShape& shape, Index items) {
  constexpr Index kItems = 8;
  return blocks_for(std::max<Index>(items, 1), kItems * shape.block.y);
}

/// Parts where each leaves a sum, to be added to the others': no more than fill a device, and of at least
/// `least` items.
inline unsigned summed_parts(const LaunchShape& shape, Index items, Index least) {
  constexpr Index kBlocks = 528;  // four for each of an H100's multiprocessors
  return static_cast<unsigned>(std::clamp<Index>(kBlocks / (Index{shape.grid.x} * shape.grid.y), 1,
                                                 std::max<Index>(items / least, 1)));
}

/// This thread's pack of channels begins here, or it has none where that is not one of them.
template <int kWidth>
__device__ Index first_channel() {
  return (Index{blockIdx.y} * blockDim.x + threadIdx.x) * kWidth;
}

/// Where a part of `items` begins, and the one before it ends.
inline __device__ Index part_begin(Index items, Index part, Index parts) { return items * part / parts; }

/// body(item) for each of this thread's among all `items`.
template <class Body>
__device__ void for_part(Index items, Index part, Index parts, Body body) {
  const Index end = part_begin(items, part + 1, parts);
  for (Index item = part_begin(items, part, parts) + threadIdx.y; item < end; item += blockDim.y) body(item);
}

/// What sum.add() makes of the sums of all threads with one threadIdx.x; that of threadIdx.y 0 gets it. In
/// the same order whatever the order of threads.
template <class Sum>
__device__ Sum sum_of_block(Sum sum) {
  __shared__ Sum of_threads[kBlock];
  const unsigned thread = threadIdx.y * blockDim.x + threadIdx.x;
  __syncthreads();  // until all have read the previous ones
  of_threads[thread] = sum;
  for (unsigned step = 1; step < blockDim.y; step *= 2) {
    __syncthreads();
    if (threadIdx.y % (2 * step) == 0 && threadIdx.y + step < blockDim.y) {
      sum.add(of_threads[thread + step * blockDim.x]);
      of_threads[thread] = sum;
    }
  }
  return sum;
}

}  // namespace conclave::kernels::cuda
