// Shared by the CPU and CUDA kernels of permutation.h.
#pragma once

#include <cstdint>
#include <limits>

#include "core/host_device.h"
#include "core/kernels/permutation.h"

namespace conclave::kernels {

/// Finds the address of row number `slot`.
template <class T>
struct RowFinder {
  explicit RowFinder(RowParts parts) : hidden(parts.front().size(1)) {
    std::int32_t next = 0;
    for (std::size_t i = 0; i < kMostRowParts; ++i) {
      const bool given = i < parts.size();
      // A part without rows, which may have no memory, begins where the next one does, so no slot finds it.
      const bool empty = !given || parts[i].numel() == 0;
      rows[i] = empty ? nullptr : parts[i].data<T>() - next * hidden;
      first[i] = given ? next : std::numeric_limits<std::int32_t>::max();
      if (given) next += static_cast<std::int32_t>(parts[i].size(0));
    }
  }
  CONCLAVE_HOST_DEVICE T* operator()(std::int32_t slot) const {
    T* part = rows[0];
    for (std::size_t i = 1; i < kMostRowParts; ++i)
      if (slot >= first[i]) part = rows[i];
    return part + Index{slot} * hidden;
  }

  T* rows[kMostRowParts];             // per part, the address that row 0 would have: saves registers
  std::int32_t first[kMostRowParts];  // the first row's number of each part
  Index hidden;
};

}  // namespace conclave::kernels
