// What tests of kernels ask of the emulated device, on a GPU: it draws no orders of threads and counts
// nothing.
#include <cuda_runtime.h>

#include "tests/cuda_emulator/emulator.h"

namespace conclave::emulator {

void set_seed(std::uint64_t) {}

// That the kernels' own work was launched between two questions is taken for granted.
Counters counters() {
  static std::size_t asked = 0;
  return {.launches = ++asked};
}

std::string take_report() {
  const cudaError_t code = cudaDeviceSynchronize();
  return code == cudaSuccess ? "" : cudaGetErrorString(code);
}

}  // namespace conclave::emulator
