// The same work on the same tensors, again and again.
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

  /// Calls `work`, on a processor. For a device, the second call captures what it queues there (see
  /// cuda::Graph), and that is queued from then on: numbers that change lie in device memory. The first call
  /// is as on a processor, as CUDA loads kernels where they are first launched, and should not while it
  /// captures.
  void run(const std::function<void()>& work);

 private:
  Device device_;
  bool called_ = false;
  std::shared_ptr<const cuda::Graph> graph_;  // null until the second call
};

}  // namespace conclave
