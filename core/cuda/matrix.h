// The matrices of products, and f32 rounded to what tensor cores multiply fastest.
#pragma once

#include "core/tensor.h"

namespace conclave::cuda {

/// A matrix in row-major order, its rows `stride` elements apart; `transposed`, its transpose is what counts.
template <class T>
struct Operand {
  const T* data = nullptr;
  Index stride = 0;
  bool transposed = false;
};

/// Rows, of which products may have some.
template <class T>
struct Matrix {
  const T* data = nullptr;
  Index rows = 0, columns = 0, stride = 0;

  Operand<T> from(Index row, bool transposed = false) const {
    return {data + row * stride, stride, transposed};
  }
};

/// Elements from one row to the next of a matrix of bf16 whose rows begin where 16 bytes do.
constexpr Index bf16_stride(Index columns) { return (columns + 7) / 8 * 8; }

/// Queues it: `to`, aligned to 16 bytes, becomes `matrix` rounded to nearest even, its rows
/// bf16_stride(columns) apart with zeros between them.
Matrix<BFloat16> round_to_bf16(const char* operation, const Matrix<float>& matrix, BFloat16* to);

}  // namespace conclave::cuda
