#include "core/cuda/launch.h"

#include "core/error.h"

namespace conclave::cuda {
namespace {

thread_local cudaStream_t stream_of_thread = nullptr;

}  // namespace

void check(cudaError_t code, const char* doing) {
  require(code == cudaSuccess, "{}: CUDA says: {}", doing, cudaGetErrorString(code));
}

cudaStream_t current_stream() { return stream_of_thread; }
void set_current_stream(cudaStream_t stream) { stream_of_thread = stream; }

}  // namespace conclave::cuda
