// Sums whose order is fixed by the shape alone, never by the number of threads, so that the same input gives
// the same bits.
#pragma once

#include "core/kernels/kernel.h"

namespace conclave::kernels {

// For a tensor on a CUDA device, these three wait for all work queued before.
double sum(const Tensor& x);             ///< of all elements, added up in f64
double sum_of_squares(const Tensor& x);  ///< of the squares of all elements, added up in f64
bool all_finite(const Tensor& x);        ///< no NaN, no infinity

/// squares[i] += the sum of squares of row i of x [rows, ...], added up in f64 and divided by `divisor`.
struct RowSquares {
  Tensor x;
  std::span<double> squares;
};
/// For all of them in order; all have one dtype. On a CUDA device it waits once.
void add_row_squares(std::span<const RowSquares> all, double divisor);

/// y [segments, hidden] = mean over the rows [offsets[s], offsets[s + 1]) of x [rows, hidden]; offsets
/// [segments + 1] i32; an empty segment gives zeros.
void segment_mean(const Tensor& x, const Tensor& offsets, const Tensor& y);

/// dx [rows, hidden] (=, +=), the gradient of segment_mean().
void segment_mean_backward(const Tensor& dy, const Tensor& offsets, const Tensor& dx, Write write);

/// y [segments, hidden] = maximum over the rows of each segment, as above; winners [segments, hidden] i32
/// receives the row it came from (the first of equals; -1 in an empty segment, where y is 0).
void segment_max(const Tensor& x, const Tensor& offsets, const Tensor& y, const Tensor& winners);

/// dx [rows, hidden] accumulates: dx[winners[s, i], i] += dy[s, i].
void segment_max_backward(const Tensor& dy, const Tensor& winners, const Tensor& dx);

/// sums [columns] += column sums of x [rows, columns].
void column_sums(const Tensor& x, const Tensor& sums);

/// CUDA implementations, called by the functions above for tensors on a device.
namespace cuda {
double sum(const Tensor& x);
double sum_of_squares(const Tensor& x);
bool all_finite(const Tensor& x);
void add_row_squares(std::span<const RowSquares> all, double divisor);
void segment_mean(const Tensor& x, const Tensor& offsets, const Tensor& y);
void segment_mean_backward(const Tensor& dy, const Tensor& offsets, const Tensor& dx, Write write);
void segment_max(const Tensor& x, const Tensor& offsets, const Tensor& y, const Tensor& winners);
void segment_max_backward(const Tensor& dy, const Tensor& winners, const Tensor& dx);
void column_sums(const Tensor& x, const Tensor& sums);
}  // namespace cuda

}  // namespace conclave::kernels
