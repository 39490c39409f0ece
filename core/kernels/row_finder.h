// What the CPU's and CUDA's kernels of permutation.h share.
#pragma once

#include "core/host_device.h"
#include "core/kernels/permutation.h"

namespace conclave::kernels {

/// Where row number `slot` is.
template <class T>
struct RowFinder {
  explicit RowFinder(const SplitRows& rows)
      : head(rows.head.data<T>()),
        tail(rows.tail.data<T>()),
        split(rows.head.size(0)),
        hidden(rows.tail.size(1)) {}
  CONCLAVE_HOST_DEVICE T* operator()(Index slot) const {
    return slot < split ? head + slot * hidden : tail + (slot - split) * hidden;
  }

  T *head, *tail;
  Index split, hidden;
};

}  // namespace conclave::kernels
