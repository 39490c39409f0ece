// Repeats the same work on the same tensors.
#pragma once

#include <functional>
#include <memory>

#include "core/device.h"

namespace conclave {

namespace cuda {
class Graph;
}

class Replay {
 public:
  explicit Replay(Device device) : device_(device) {}

  /// On the CPU, calls `work`. On a device, the first call also just calls `work`: CUDA loads a kernel at its
  /// first launch, which should not happen during a capture. The second call captures what `work` queues (see
  /// cuda::Graph); it and all later calls queue the captured graph. Values that change between calls must
  /// therefore lie in device memory.
  void run(const std::function<void()>& work);

 private:
  Device device_;
  bool called_ = false;
  std::shared_ptr<const cuda::Graph> graph_;  // null until the second call
};

}  // namespace conclave
