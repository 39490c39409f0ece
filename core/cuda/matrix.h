// Operands of matrix products, and rounding of f32 to bf16, which tensor cores multiply fastest.
#pragma once

#include "core/tensor.h"

namespace conclave::cuda {

/// A matrix in row-major order, with rows `stride` elements apart; with `transposed`, the operand is its
/// transpose.
template <class T>
struct Operand {
  const T* data = nullptr;
  Index stride = 0;
  bool transposed = false;
};

/// A matrix in memory, of which a product may take some rows.
template <class T>
struct Matrix {
  const T* data = nullptr;
  Index rows = 0, columns = 0, stride = 0;

  Operand<T> from(Index row, bool transposed = false) const {
    return {data + row * stride, stride, transposed};
  }
};

/// The row stride, in elements, of a bf16 matrix whose rows are aligned to 16 bytes.
constexpr Index bf16_stride(Index columns) { return (columns + 7) / 8 * 8; }

/// Queues the rounding (to nearest even) of `matrix` into `to`, which is aligned to 16 bytes. Rows of the
/// result are bf16_stride(columns) elements apart, with zeros between them.
Matrix<BFloat16> round_to_bf16(const char* operation, const Matrix<float>& matrix, BFloat16* to);

}  // namespace conclave::cuda
