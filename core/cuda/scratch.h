// Device memory for what one kernel leaves to the next within one operation.
#pragma once

#include <cstddef>

#include "core/tensor.h"

namespace conclave::cuda {

/// Memory on loan until the end of the scope. It comes from a pool of this thread and its current stream,
/// whose order keeps one operation's use of it apart from the next one's; the pool grows to what the largest
/// operation needs, gives back what that outgrows, and then allocates no more. No graph may have captured it.
/// Scratches nest; the stream must not change within one.
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
  std::size_t block_, used_;  // where the pool stood before
};

}  // namespace conclave::cuda
