#include "core/cuda/graph.h"

#include <exception>

#include "core/cuda/launch.h"
#include "core/cuda/stream.h"

namespace conclave::cuda {
namespace {

constexpr const char* kCapturing = "capturing a graph";

}  // namespace

// Captured on a stream of its own, as CUDA's default one cannot be. What other threads do is no part of it,
// nor forbidden to them.
Graph::Graph(const std::function<void()>& work) {
  const Stream stream;
  const StreamScope scope(stream);
  check(cudaStreamBeginCapture(stream.handle(), cudaStreamCaptureModeThreadLocal), kCapturing);
  std::exception_ptr failure;
  try {
    work();
  } catch (...) {
    failure = std::current_exception();  // rethrown once the capture has ended, which it must in any case
  }
  cudaGraph_t graph = nullptr;
  cudaError_t code = cudaStreamEndCapture(stream.handle(), &graph);
  if (!failure && code == cudaSuccess) code = cudaGraphInstantiate(&executable_, graph, 0);
  if (graph) cudaGraphDestroy(graph);
  if (failure) std::rethrow_exception(failure);
  check(code, kCapturing);
}

Graph::~Graph() { cudaGraphExecDestroy(executable_); }

void Graph::launch() const { check(cudaGraphLaunch(executable_, current_stream()), "launching a graph"); }

}  // namespace conclave::cuda
