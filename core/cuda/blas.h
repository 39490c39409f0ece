// Matrix products by cuBLASLt, of which no other file knows. A thread has a handle of its own, from its first
// product on, and its own plans: descriptors and the algorithm that the library chose, by shape. A product
// goes to the thread's current stream, with a workspace from Scratch.
#pragma once

#include <type_traits>

#include "core/cuda/matrix.h"
#include "core/cuda/scratch.h"
#include "core/precision.h"
#include "core/tensor.h"

namespace conclave::cuda {

/// c [m, n] = a [m, k] b [k, n], of which c may not overlap with a or b. Sums are of type Sum, and so is what
/// becomes of them; a and b of bf16 or of integers begin, and their rows begin, where 16 bytes do. Of
/// integers b is transposed, a is not, and n, k and c's stride are multiples of 4.
template <class T, class Sum = T>
struct MatrixProduct {
  Index m = 0, n = 0, k = 0;
  Operand<T> a, b;
  Sum* c = nullptr;
  Index c_stride = 0;
  bool accumulate = false;  ///< c += the product instead
  /// Only of f32, whose epilogues are in everybody's use, and for k > 0: a bias [n], aligned to 16 bytes, for
  /// every row, and max(0, .) of the sum.
  const Sum* bias = nullptr;
  bool relu = false;
  /// In place of these two, where the operands are of f32 as well: [m], aligned likewise, for the sums of a's
  /// rows.
  Sum* row_sums = nullptr;
};

/// Queues the product; throws Error, naming the operation, where that fails. Operands of f32 are multiplied
/// in TF32 where precision() is tf32; for bf16, see multiplied(). Returns whether the row sums are written:
/// for some shapes the library has only products without.
bool multiply(const char* operation, const MatrixProduct<BFloat16, float>& product);
bool multiply(const char* operation, const MatrixProduct<float>& product);
bool multiply(const char* operation, const MatrixProduct<double>& product);
bool multiply(const char* operation, const MatrixProduct<std::int8_t, std::int32_t>& product);

/// body(a, b) with two matrices as products of them, or of their parts, are to have them: as they are, but
/// where precision() is bf16, and they are of f32, as copies in scratch, each rounded once for all products.
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
