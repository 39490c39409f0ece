// The rows of a matrix, which may be some columns of a wider one, for CPU and CUDA kernels.
#pragma once

#include <type_traits>

#include "core/host_device.h"
#include "core/kernels/kernel.h"

namespace conclave::kernels {

template <class T>
struct StridedRows {
  T* data;
  Index stride;  ///< elements from one row to the next

  CONCLAVE_HOST_DEVICE T* operator[](Index row) const { return data + row * stride; }
  /// The submatrix that begins at this row and column.
  CONCLAVE_HOST_DEVICE StridedRows at(Index row, Index column) const {
    return {data + row * stride + column, stride};
  }
};

template <class T>
StridedRows<T> strided_rows(const Tensor& tensor) {
  return {tensor.data<std::remove_const_t<T>>(), tensor.stride(0)};
}

/// Throws Error unless `tensor` is a matrix of this size and dtype, each of whose rows is contiguous.
inline void expect_rows(const char* operation, const char* argument, const Tensor& tensor, Index rows,
                        Index columns, DType dtype) {
  const Shape shape{rows, columns};
  require(tensor.shape() == shape && tensor.dtype() == dtype && tensor.stride(1) == 1,
          "{}: {} is {} {}, expected {} {} with contiguous rows", operation, argument,
          name_of(tensor.dtype()), tensor.shape(), name_of(dtype), shape);
}

}  // namespace conclave::kernels
