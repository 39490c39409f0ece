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

// CUDA knows this number without asking the device, so nothing is gained by keeping it.
std::size_t most_shared_memory(const char* operation) {
  int device = 0, bytes = 0;
  check(cudaGetDevice(&device), operation);
  check(cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device), operation);
  return static_cast<std::size_t>(bytes);
}

}  // namespace conclave::cuda
