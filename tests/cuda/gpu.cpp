// Lets the tests of kernels run on a GPU: implements the functions of the emulated device that they call. A
// GPU has no seed for the order of threads and no counters.
#include <cuda_runtime.h>

#include "tests/cuda_emulator/emulator.h"

namespace conclave::emulator {

void set_seed(std::uint64_t) {}

// Tests check that the count of launches grows; a GPU does not count them, so it grows with every call.
Counters counters() {
  static std::size_t asked = 0;
  return {.launches = ++asked};
}

std::string take_report() {
  const cudaError_t code = cudaDeviceSynchronize();
  return code == cudaSuccess ? "" : cudaGetErrorString(code);
}

}  // namespace conclave::emulator
