// The only way to launch a kernel, with nvcc and on the emulated device of the tests alike. For .cu files.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>

namespace conclave::cuda {

/// Throws Error, with `doing` and CUDA's message, unless `code` is cudaSuccess.
void check(cudaError_t code, const char* doing);

/// The stream of this thread's kernels and copies; CUDA's default stream until set_current_stream().
cudaStream_t current_stream();
void set_current_stream(cudaStream_t stream);

/// Bytes of dynamic shared memory that any kernel may have. CUDA grants 48 KiB of shared memory without a
/// call of cudaFuncSetAttribute; this leaves 16 KiB for static shared variables.
inline constexpr std::size_t kSharedForAll = 32 * 1024;

/// Bytes of shared memory, dynamic and static, that this thread's device gives a block of threads on request.
std::size_t most_shared_memory(const char* operation);

struct LaunchShape {
  dim3 grid, block;
  std::size_t shared_bytes = 0;  ///< dynamic shared memory; the kernel gets it by shared_memory()
};

/// Queues kernel(arguments...) on the current stream; throws Error, naming the operation, on failure.
template <class... Parameters, class... Arguments>
void launch(const char* operation, void (*kernel)(Parameters...), const LaunchShape& shape,
            Arguments... arguments) {
  cudaLaunchConfig_t config{};
  config.gridDim = shape.grid;
  config.blockDim = shape.block;
  config.dynamicSmemBytes = shape.shared_bytes;
  config.stream = current_stream();
  if (shape.shared_bytes > kSharedForAll)
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                               static_cast<int>(shape.shared_bytes)),
          operation);
  check(cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...), operation);
}

}  // namespace conclave::cuda
