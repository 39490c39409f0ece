#include "core/cuda/graph.h"

#include <exception>

#include "core/cuda/launch.h"
#include "core/cuda/stream.h"

namespace conclave::cuda {
namespace {

constexpr const char* kCapturing = "capturing a graph";

}  // namespace

// Captures on a stream of its own, because CUDA's default stream cannot be captured. In the thread-local
// mode, work of other threads is neither captured nor forbidden.
Graph::Graph(const std::function<void()>& work) {
  const Stream stream;
  const StreamScope scope(stream);
  check(cudaStreamBeginCapture(stream.handle(), cudaStreamCaptureModeThreadLocal), kCapturing);
  std::exception_ptr failure;
  try {
    work();
  } catch (...) {
    failure = std::current_exception();  // rethrown after the capture, which must be ended in any case
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
