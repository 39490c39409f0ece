// A CUDA graph: work that is captured once, and queued again any number of times by one call from the host.
#pragma once

#include <functional>

struct CUgraphExec_st;

namespace conclave::cuda {

class Graph {
 public:
  /// Calls `work`; what it queues on the current stream is captured instead of run. `work` must not wait,
  /// must not allocate (not even scratch), and must not copy from or to the host.
  explicit Graph(const std::function<void()>& work);
  ~Graph();
  Graph(const Graph&) = delete;
  Graph& operator=(const Graph&) = delete;

  /// Queues the captured work on the current stream, with the addresses and values it was captured with.
  void launch() const;

 private:
  CUgraphExec_st* executable_ = nullptr;
};

}  // namespace conclave::cuda
