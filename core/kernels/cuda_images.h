// How threads divide images with adjacent channels. A block handles some packs of an image's channels, one
// per threadIdx.x, and one part, blockIdx.z, of the image's pixels (or of other `items` that an image
// consists of). Threads of one threadIdx.y work on the same item at a time. For .cu files.
#pragma once

#include "core/kernels/cuda_kernel.h"

namespace conclave::kernels::cuda {

/// Blocks [images, groups of packs, 1]; all groups have about as many packs.
template <int kWidth>
LaunchShape image_shape(Index images, Index items, Index channels) {
  const Index packs = channels / kWidth, groups = (packs + kWarp - 1) / kWarp,
              width = (packs + groups - 1) / groups;
  return {.grid = dim3(static_cast<unsigned>(images), static_cast<unsigned>(groups)),
          .block = dim3(static_cast<unsigned>(width),
                        static_cast<unsigned>(std::clamp(items, Index{1}, kBlock / width)))};
}

/// The number of parts if items are independent: some items for each thread.
inline unsigned independent_parts(const LaunchShape& shape, Index items) {
  constexpr Index kItems = 8;
  return blocks_for(std::max<Index>(items, 1), kItems * shape.block.y);
}

/// The number of parts if each leaves a sum, and these must be added up: no more than fill a device, with at
/// least `least` items each.
inline unsigned summed_parts(const LaunchShape& shape, Index items, Index least) {
  constexpr Index kBlocks = 528;  // four per multiprocessor of an H100
  return static_cast<unsigned>(std::clamp<Index>(kBlocks / (Index{shape.grid.x} * shape.grid.y), 1,
                                                 std::max<Index>(items / least, 1)));
}

/// The first channel of this thread's pack; if it is not below the number of channels, the thread has none.
template <int kWidth>
__device__ Index first_channel() {
  return (Index{blockIdx.y} * blockDim.x + threadIdx.x) * kWidth;
}

/// The first item of a part, and the end of the part before it.
inline __device__ Index part_begin(Index items, Index part, Index parts) { return items * part / parts; }

/// Calls body(item) for this thread's items of a part.
template <class Body>
__device__ void for_part(Index items, Index part, Index parts, Body body) {
  const Index end = part_begin(items, part + 1, parts);
  for (Index item = part_begin(items, part, parts) + threadIdx.y; item < end; item += blockDim.y) body(item);
}

/// Combines, by sum.add(), the sums of all threads with the same threadIdx.x; the thread of threadIdx.y 0
/// gets the result. The order of the additions is fixed.
template <class Sum>
__device__ Sum sum_of_block(Sum sum) {
  __shared__ Sum of_threads[kBlock];
  const unsigned thread = threadIdx.y * blockDim.x + threadIdx.x;
  __syncthreads();  // all threads have read the values of the previous call
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
