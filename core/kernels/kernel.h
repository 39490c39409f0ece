// The basis of every kernel: how results are written, and checks whose messages name the operation.
#pragma once

#include <omp.h>

#include <algorithm>
#include <cstdint>

#include "core/tensor.h"

namespace conclave {

/// How a kernel writes a result that may be one of several contributions (gradients): overwrite, or add.
enum class Write : std::uint8_t { assign, accumulate };

namespace kernels {

/// The fewest elements for which a second thread pays: a fork costs some 5 us, as much as 16 Ki element-wise
/// operations.
inline constexpr Index kParallelElements = 16 * 1024;

/// Throws Error unless `tensor` is contiguous with exactly this shape and dtype.
inline void expect(const char* operation, const char* argument, const Tensor& tensor, const Shape& shape,
                   DType dtype) {
  require(tensor.defined() || shape.numel() == 0, "{}: {} is undefined, expected {} {}", operation, argument,
          name_of(dtype), shape);
  require(tensor.shape() == shape && tensor.dtype() == dtype && tensor.contiguous(),
          "{}: {} is {} {}{}, expected {} {}", operation, argument, name_of(tensor.dtype()), tensor.shape(),
          tensor.contiguous() ? "" : " (strided)", name_of(dtype), shape);
}

/// Whether an operation's tensors are on a CUDA device; throws Error if some are and others are not. A kernel
/// that has checked its arguments then calls the function of the same name in namespace cuda.
template <class... Tensors>
bool on_cuda(const char* operation, const Tensor& first, const Tensors&... others) {
  for (const Tensor* other : std::initializer_list<const Tensor*>{&others...})
    require(!other->defined() || other->device() == first.device(),
            "{}: some tensors are on {}, others on {}; copy all to one of them", operation,
            name_of(first.device()), name_of(other->device()));
  return first.device() == Device::cuda;
}

/// Throws Error unless `tensor` has `rank` dimensions.
inline void expect_rank(const char* operation, const char* argument, const Tensor& tensor, int rank) {
  require(tensor.rank() == rank, "{}: {} has shape {}, expected {} dimensions", operation, argument,
          tensor.shape(), rank);
}

/// Throws Error unless `offsets` [segments + 1] i32 divides `rows` rows into segments; returns their number.
/// Offsets on a CUDA device are not checked.
inline Index expect_offsets(const char* operation, const Tensor& offsets, Index rows,
                            const char* argument = "offsets") {
  const Index segments = offsets.numel() - 1;
  expect(operation, argument, offsets, {segments + 1}, DType::i32);
  if (offsets.device() != Device::cpu) return segments;
  const auto bounds = offsets.span<std::int32_t>();
  require(!bounds.empty() && bounds.front() == 0 && bounds.back() == rows &&
              std::is_sorted(bounds.begin(), bounds.end()),
          "{}: {} must rise from 0 to {}", operation, argument, rows);
  return segments;
}

/// Throws Error unless `labels` [rows] i32 lie in [0, classes). Labels on a CUDA device are not checked;
/// there, a wrong label makes its row's loss NaN.
inline void expect_labels(const char* operation, const Tensor& labels, Index rows, Index classes) {
  expect(operation, "labels", labels, {rows}, DType::i32);
  if (labels.device() != Device::cpu) return;
  for (const std::int32_t label : labels.span<std::int32_t>())
    require(label >= 0 && label < classes, "{}: label {} is outside [0, {})", operation, label, classes);
}

template <class T>
inline void write(T& to, T value, Write mode) {
  to = mode == Write::assign ? value : to + value;
}

}  // namespace kernels
}  // namespace conclave
