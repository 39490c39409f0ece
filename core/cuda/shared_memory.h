// A kernel's dynamic shared memory; the launch gives its size.
#pragma once

#include <cuda_runtime.h>

namespace conclave::cuda {

/// The block's LaunchShape::shared_bytes, aligned to 16 bytes; every call returns the same memory.
template <class T>
__device__ T* shared_memory() {
#ifdef __CUDACC__
  extern __shared__ __align__(16) unsigned char bytes[];
  return reinterpret_cast<T*>(bytes);
#else  // the emulated device of the tests
  return static_cast<T*>(emulator::shared_memory());
#endif
}

}  // namespace conclave::cuda
