// A table of the bytes and FLOPs that each operation on a CUDA device needs at least. bytes_test.cpp compares
// the traffic of the kernels with it, core/kernels/cuda_roofline.tsv is its printed form, and roofline.cpp
// measures how close a GPU comes to it.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "core/tensor.h"

namespace conclave::roofline {

/// updated: read and written; scratch: memory that only the processor's implementation uses.
enum class Use { read, written, updated, scratch };

/// A tensor of an operation. `fill` sets its values on the host; without `fill`, they are in [-1, 1).
struct Operand {
  Use use;
  Shape shape;
  DType dtype = DType::f32;
  std::function<void(const Tensor&)> fill = {};
  double part = 1;  ///< fraction that is accessed, in whole 32-byte sectors
};

struct Bytes {
  double read = 0, written = 0;
  double total() const { return read + written; }
};

/// The units that compute: multiply-adds in f32, or the units for bf16 products. The latter multiply 8-bit
/// integers at twice the rate.
enum class Arithmetic { f32, bf16_products, integer_products };

struct Operation {
  std::string name;
  std::string sizes;  ///< "tokens 16384, hidden 4096"
  std::vector<Operand> operands;
  double flops = 0;  ///< approximate; a function like exp counts as 20
  /// Runs the operation on tensors like `operands`, in their order.
  std::function<void(const std::vector<Tensor>&)> run;
  /// Traffic that the algorithm needs in addition, and the reason why that is accepted.
  Bytes more = {};
  std::string reason = {};
  Arithmetic arithmetic = Arithmetic::f32;

  /// The traffic if every operand is read once or written once.
  Bytes least() const;
  /// Allocates and fills tensors like `operands` on the device.
  std::vector<Tensor> tensors() const;
};

/// Rates of a GPU, per second.
struct Rates {
  double bytes = 0, f32 = 0, bf16_products = 0;
};
inline constexpr Rates kH100{.bytes = 3.0e12, .f32 = 60e12, .bf16_products = 790e12};

/// Least time in seconds: that of the bytes or of the arithmetic, whichever is longer.
double floor_of(const Operation& operation, const Rates& rates);

/// small: for the emulated device; large: shapes that fill a GPU and fit into no cache.
enum class Size { small, large };
std::vector<Operation> operations(Size size);

}  // namespace conclave::roofline
