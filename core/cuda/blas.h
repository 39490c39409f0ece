// Matrix products by cuBLASLt, of which no other file knows. A thread has a handle of its own, from its first
// product on, and its own plans: descriptors and the algorithm that the library chose, by shape. A product
// goes to the thread's current stream, with a workspace from Scratch.
//
// cuDNN will live beside it in dnn.h when convolutions come: a handle per thread that every call binds to the
// current stream, a workspace from Scratch, and descriptors as objects, in plans by shape.
#pragma once

#include <cstdint>

#include "core/tensor.h"

namespace conclave::cuda {

/// How products of f32 are computed, in all threads: f32, as on a processor, unless set. tf32 rounds what is
/// multiplied to 11 significant bits, and tensor cores then multiply it about eight times as fast.
enum class Precision : std::uint8_t { f32, tf32 };
Precision precision();
void set_precision(Precision precision);

/// A matrix in row-major order, its rows `stride` elements apart; `transposed`, its transpose is what counts.
template <class T>
struct Operand {
  const T* data = nullptr;
  Index stride = 0;
  bool transposed = false;
};

/// c [m, n] = a [m, k] b [k, n], of which c may not overlap with a or b.
template <class T>
struct MatrixProduct {
  Index m = 0, n = 0, k = 0;
  Operand<T> a, b;
  T* c = nullptr;
  Index c_stride = 0;
  bool accumulate = false;  ///< c += the product instead
  /// Only in f32, whose epilogues are in everybody's use, and for k > 0: a bias [n], aligned to 16 bytes, for
  /// every row, and max(0, .) of the sum.
  const T* bias = nullptr;
  bool relu = false;
};

/// Queues the product; throws Error, naming the operation, where that fails.
void multiply(const char* operation, const MatrixProduct<float>& product);
void multiply(const char* operation, const MatrixProduct<double>& product);

}  // namespace conclave::cuda
