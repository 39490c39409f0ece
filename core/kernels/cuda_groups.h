// Groups of rows with a matrix each, such as the tokens of experts. For .cu files.
#pragma once

#include <algorithm>

#include "core/kernels/cuda_kernel.h"
#include "core/kernels/matmul.h"

namespace conclave::kernels::cuda {

/// A run of groups that fits a kernel's parameters, which have 4 KiB on every device.
struct Groups {
  static constexpr Index kMost = 256;

  Index first = 0, count = 0;
  Index offsets[kMost + 1] = {};

  __host__ __device__ Index begin() const { return offsets[0]; }
  __host__ __device__ Index end() const { return offsets[count]; }
  __device__ Index rows(Index group) const { return offsets[group + 1] - offsets[group]; }
  /// The group of this run that the row belongs to.
  __device__ Index of(Index row) const {
    Index low = 0, high = count - 1;
    while (low < high) {
      const Index middle = (low + high) / 2;
      if (offsets[middle + 1] <= row)
        low = middle + 1;
      else
        high = middle;
    }
    return low;
  }
};

/// Calls body(groups) for every run of groups that has rows.
template <class Body>
void for_runs(RowOffsets offsets, Body body) {
  const Index groups = static_cast<Index>(offsets.size()) - 1;
  for (Index first = 0; first < groups; first += Groups::kMost) {
    Groups run{.first = first, .count = std::min(Groups::kMost, groups - first)};
    std::copy_n(offsets.begin() + first, run.count + 1, run.offsets);
    if (run.begin() < run.end()) body(run);
  }
}

/// Calls body(group, first row, number of rows) for every group that has rows.
template <class Body>
void for_groups(RowOffsets offsets, Body body) {
  for (std::size_t g = 0; g + 1 < offsets.size(); ++g)
    if (offsets[g] < offsets[g + 1]) body(static_cast<Index>(g), offsets[g], offsets[g + 1] - offsets[g]);
}

}  // namespace conclave::kernels::cuda
