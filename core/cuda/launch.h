// The one way to start a kernel, for nvcc and for the emulated device of the tests alike. For .cu files.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>

namespace conclave::cuda {

/// Throws Error, saying what was being done and what CUDA says, unless `code` is cudaSuccess.
void check(cudaError_t code, const char* doing);

/// Where this thread's kernels and copies go; CUDA's default stream until set_current_stream().
cudaStream_t current_stream();
void set_current_stream(cudaStream_t stream);

/// Dynamic shared memory that any kernel may have, beside 16 KiB of variables in it and in what it calls;
/// CUDA wants to be asked for more.
inline constexpr std::size_t kSharedForAll = 32 * 1024;

struct LaunchShape {
  dim3 grid, block;
  std::size_t shared_bytes = 0;  ///< dynamic shared memory, which the kernel gets by shared_memory()
};

/// Queues kernel(arguments...) on the current stream; throws Error, naming the operation, where that fails.
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
