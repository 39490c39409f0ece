// Uploads of small tables from host memory to the device. For .cu files.
#pragma once

#include <algorithm>
#include <span>

#include "core/cuda/launch.h"

namespace conclave::cuda {

namespace upload_detail {

inline constexpr int kThreads = 256;

/// Together with the kernel's other arguments, it fits the 4 KiB that every device and driver accepts.
template <class T>
struct Part {
  T values[4000 / sizeof(T)];
};

template <class T>
__global__ void __launch_bounds__(kThreads)
    upload_kernel(const __grid_constant__ Part<T> part, int count, T* to) {
  for (int i = static_cast<int>(threadIdx.x); i < count; i += kThreads) to[i] = part.values[i];
}

}  // namespace upload_detail

/// Queues a copy of `values`, which may change as soon as this returns: kernel arguments carry the values,
/// about 4 KB per launch. Use cudaMemcpyAsync for larger tables.
template <class T>
void upload(const char* operation, std::span<const T> values, T* to) {
  upload_detail::Part<T> part;
  while (!values.empty()) {
    const std::span<const T> next = values.first(std::min(values.size(), std::size(part.values)));
    std::copy(next.begin(), next.end(), part.values);
    launch(operation, upload_detail::upload_kernel<T>,
           {.grid = dim3(1), .block = dim3(upload_detail::kThreads)}, part, static_cast<int>(next.size()),
           to);
    values = values.subspan(next.size());
    to += next.size();
  }
}

}  // namespace conclave::cuda
