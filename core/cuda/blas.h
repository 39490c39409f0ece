// Matrix products by cuBLASLt, which is used in blas.cpp only. Each thread has its own handle, created at its
// first product, and its own plans by shape: descriptors, and the algorithm that the library chose. A product
// runs on the thread's current stream, with a workspace from Scratch.
#pragma once

#include <type_traits>

#include "core/cuda/matrix.h"
#include "core/cuda/scratch.h"
#include "core/precision.h"
#include "core/tensor.h"

namespace conclave::cuda {

/// c [m, n] = a [m, k] b [k, n]; c must not overlap a or b. The sums and c have type Sum. For bf16 and
/// integers, every row of a and b is aligned to 16 bytes. For integers, b is transposed, a is not, and n, k
/// and c's stride are multiples of 4.
template <class T, class Sum = T>
struct MatrixProduct {
  Index m = 0, n = 0, k = 0;
  Operand<T> a, b;
  Sum* c = nullptr;
  Index c_stride = 0;
  bool accumulate = false;  ///< c += the product instead
  /// Only if the operands are f32, for which cuBLASLt's epilogues are well tried, and k > 0: a bias [n],
  /// aligned to 16 bytes and added to every row.
  const Sum* bias = nullptr;
  /// Instead of a bias, also only for f32 operands: receives the sums of a's rows [m]; aligned to 16 bytes.
  Sum* row_sums = nullptr;
};

/// Queues the product; throws Error, naming the operation, on failure. Operands of f32 are multiplied in TF32
/// if precision() is tf32; for bf16, see multiplied(). Returns whether row_sums was written: for some shapes
/// the library has no algorithm that also gives row sums.
bool multiply(const char* operation, const MatrixProduct<BFloat16, float>& product);
bool multiply(const char* operation, const MatrixProduct<float>& product);
bool multiply(const char* operation, const MatrixProduct<double>& product);
bool multiply(const char* operation, const MatrixProduct<std::int8_t, std::int32_t>& product);

/// Calls body(a, b) with the matrices in the form that is to be multiplied, whole or in parts. If precision()
/// is bf16 and they are f32, these are copies in scratch, rounded once for all products in `body`; otherwise
/// they are a and b themselves.
template <class T, class Body>
void multiplied(const char* operation, const Matrix<T>& a, const Matrix<T>& b, Body body) {
  if constexpr (std::is_same_v<T, float>)
    if (precision() == Precision::bf16) {
      Scratch scratch;
      const auto rounded = [&](const Matrix<float>& matrix) {
        BFloat16* const to = scratch.array<BFloat16>(matrix.rows * bf16_stride(matrix.columns));
        return round_to_bf16(operation, matrix, to);
      };
      const Matrix<BFloat16> left = rounded(a), right = rounded(b);
      return body(left, right);
    }
  body(a, b);
}

}  // namespace conclave::cuda
