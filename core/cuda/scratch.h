// Device memory for what one kernel passes to the next within an operation.
#pragma once

#include <cstddef>

#include "core/tensor.h"

namespace conclave::cuda {

/// Device memory on loan until the end of the scope. It comes from a pool for this thread and its current
/// stream; the order of the stream keeps successive operations from using the same memory at once. The pool
/// grows to what the largest operation needs, frees the blocks that became too small, and then allocates no
/// more. Do not use Scratch while a graph is captured. Scratches nest; the current stream must not change
/// during one.
class Scratch {
 public:
  Scratch();
  ~Scratch();
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  /// `count` uninitialized elements, aligned to 256 bytes.
  template <class T>
  T* array(Index count) {
    return static_cast<T*>(allocate(static_cast<std::size_t>(count) * sizeof(T)));
  }

 private:
  struct Pool;
  void* allocate(std::size_t bytes);

  Pool& pool_;
  std::size_t block_, used_;  // the position in the pool at construction
};

}  // namespace conclave::cuda
