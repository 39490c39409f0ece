#include "core/replay.h"

#include <utility>

#include "core/cuda/graph.h"

namespace conclave {

void Replay::run(const std::function<void()>& work) {
  if constexpr (kBuiltWithCuda)
    if (device_ == Device::cuda && std::exchange(called_, true)) {
      if (!graph_) graph_ = std::make_shared<cuda::Graph>(work);
      return graph_->launch();
    }
  work();
}

}  // namespace conclave
