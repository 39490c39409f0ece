// What each operation on a CUDA device has to move and to compute at least, in one table: bytes_test.cpp
// holds what kernels move to it, core/kernels/cuda_roofline.tsv is it in print, and the program of
// roofline.cpp measures how close a GPU comes.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "core/tensor.h"

namespace conclave::roofline {

/// updated: read and written; scratch: what only the processor's twin works in.
enum class Use { read, written, updated, scratch };

/// A tensor of an operation's; `fill` gives it values on the host, null: numbers in [-1, 1).
struct Operand {
  Use use;
  Shape shape;
  DType dtype = DType::f32;
  std::function<void(const Tensor&)> fill = {};
  double part = 1;  ///< of it is touched, in whole 32-byte sectors
};

struct Bytes {
  double read = 0, written = 0;
  double total() const { return read + written; }
};

/// What computes: multiply-adds in f32, or the units for products of bf16, which multiply twice as many 8-bit
/// integers.
enum class Arithmetic { f32, bf16_products, integer_products };

struct Operation {
  std::string name;
  std::string sizes;  ///< "tokens 16384, hidden 4096"
  std::vector<Operand> operands;
  double flops = 0;  ///< about; a function like exp counts as 20
  /// On tensors like `operands`, in their order.
  std::function<void(const std::vector<Tensor>&)> run;
  /// What its algorithm moves besides, and why it may.
  Bytes more = {};
  std::string reason = {};
  Arithmetic arithmetic = Arithmetic::f32;

  /// Every operand read once, or written once.
  Bytes least() const;
  /// Tensors like `operands`, on the device.
  std::vector<Tensor> tensors() const;
};

/// What a GPU does in a second.
struct Rates {
  double bytes = 0, f32 = 0, bf16_products = 0;
};
inline constexpr Rates kH100{.bytes = 3.0e12, .f32 = 60e12, .bf16_products = 790e12};

/// Seconds that it takes at least, for its bytes or its arithmetic, whichever is slower.
double floor_of(const Operation& operation, const Rates& rates);

/// small: for the emulated device; large: what a GPU is busy with and no cache holds.
enum class Size { small, large };
std::vector<Operation> operations(Size size);

}  // namespace conclave::roofline
