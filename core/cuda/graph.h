// Work that is queued again and again as it was the first time, as a CUDA graph: one call of the host's for
// all of it.
#pragma once

#include <functional>

struct CUgraphExec_st;

namespace conclave::cuda {

class Graph {
 public:
  /// Calls `work` and captures, instead of running it, what it queues on the current stream. It may neither
  /// wait nor allocate, scratch included, and copies nothing from or to the host.
  explicit Graph(const std::function<void()>& work);
  ~Graph();
  Graph(const Graph&) = delete;
  Graph& operator=(const Graph&) = delete;

  /// Queues all of it on the current stream, with the addresses and numbers that it was captured with.
  void launch() const;

 private:
  CUgraphExec_st* executable_ = nullptr;
};

}  // namespace conclave::cuda
