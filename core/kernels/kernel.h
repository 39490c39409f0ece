// What every kernel's contract leans on: how results are written, and checks whose messages name the
// operation.
#pragma once

#include <omp.h>

#include <cstdint>

#include "core/tensor.h"

namespace conclave {

/// Kernels whose result may be one of several contributions (gradients) either overwrite it or add to it.
enum class Write : std::uint8_t { assign, accumulate };

namespace kernels {

/// Fewest elements worth waking a second thread for: a fork costs some 5 us, as much as 16 Ki element-wise
/// operations.
inline constexpr Index kParallelElements = 16 * 1024;

/// Throws Error unless `tensor` is contiguous with exactly this shape and dtype.
inline void expect(const char* operation, const char* argument, const Tensor& tensor, const Shape& shape,
                   DType dtype) {
  require(tensor.defined() || shape.numel() == 0, "{}: {} is undefined, expected {} {}", operation, argument,
          name_of(dtype), shape.to_string());
  require(tensor.shape() == shape && tensor.dtype() == dtype && tensor.contiguous(),
          "{}: {} is {} {}{}, expected {} {}", operation, argument, name_of(tensor.dtype()),
          tensor.shape().to_string(), tensor.contiguous() ? "" : " (strided)", name_of(dtype),
          shape.to_string());
}

/// Throws Error unless `tensor` has `rank` dimensions.
inline void expect_rank(const char* operation, const char* argument, const Tensor& tensor, int rank) {
  require(tensor.rank() == rank, "{}: {} has shape {}, expected {} dimensions", operation, argument,
          tensor.shape().to_string(), rank);
}

template <class T>
inline void write(T& to, T value, Write mode) {
  to = mode == Write::assign ? value : to + value;
}

}  // namespace kernels
}  // namespace conclave
