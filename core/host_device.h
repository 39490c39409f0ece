// Marks a small function that CPU and CUDA kernels share.
#pragma once

#ifdef __CUDACC__
#define CONCLAVE_HOST_DEVICE __host__ __device__
#else
#define CONCLAVE_HOST_DEVICE
#endif
