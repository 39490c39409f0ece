// A stable sort of small integers on the device. With sorted keys, many threads can compute sums and numbers
// "in the order of the items, for every key", with the same bits each time. For .cu files.
#pragma once

#include "core/cuda/scratch.h"
#include "core/kernels/cuda_kernel.h"

namespace conclave::kernels::cuda {

/// Items by rising key; items of equal keys by rising number.
struct SortedItems {
  const std::int32_t *keys, *items;
};

/// Sorts item numbers 0 ... count - 1 by keys [count]; a key outside [0, bound) counts as `bound`. The result
/// lies in `scratch`.
SortedItems sort_items(const char* operation, const std::int32_t* keys, Index count, std::int32_t bound,
                       conclave::cuda::Scratch& scratch);

/// The position of the first of the sorted keys [count] that is not below `key`.
__device__ inline Index first_not_below(const std::int32_t* keys, Index count, std::int32_t key) {
  Index begin = 0, end = count;
  while (begin < end) {
    const Index middle = (begin + end) / 2;
    if (keys[middle] < key)
      begin = middle + 1;
    else
      end = middle;
  }
  return begin;
}

}  // namespace conclave::kernels::cuda
