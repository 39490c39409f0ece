// Each example's part of a parameter's gradient, and its norm, for differential privacy. The rows of one
// example are a segment. For a product, a segment's part of the weight's gradient is dz_s^T x_s over its T
// rows. Its norm can be computed without this matrix (Goodfellow 2015, arXiv:1510.01799; Li et al. 2021,
// arXiv:2110.05679, section 4): |dz_s^T x_s|^2 is the sum over the element-wise product of the matrices
// x_s x_s^T and dz_s dz_s^T, both T x T. If there are many rows, it is less work to compute dz_s^T x_s
// itself, tile by tile.
#pragma once

#include <span>

#include "core/kernels/matmul.h"

namespace conclave::kernels {

/// Segment s is the rows [begin(s), end(s)). Offsets count units of `each` rows, such as the pixels of an
/// image.
struct RowSegments {
  RowOffsets offsets;  ///< segments + 1, rising from 0
  Index each = 1;

  Index count() const { return static_cast<Index>(offsets.size()) - 1; }
  Index begin(Index s) const { return offsets[static_cast<std::size_t>(s)] * each; }
  Index end(Index s) const { return begin(s + 1); }
  Index rows() const { return offsets.back() * each; }
};

/// squares[s] += |dz_s^T x_s|^2 for dz [rows, out], x [rows, in]. Never too small: the result includes a
/// bound of the rounding error. Tensors must be in host memory, here and below.
void add_product_squares(const Tensor& dz, const Tensor& x, const RowSegments& segments,
                         std::span<double> squares);

/// products [segments, out, in] = dz_s^T x_s.
void segment_products(const Tensor& dz, const Tensor& x, const RowSegments& segments, const Tensor& products);

/// sums [segments, columns] of the rows of x [rows, columns].
void segment_sums(const Tensor& x, const RowSegments& segments, const Tensor& sums);

/// squares[s] += |values[s]|^2, values [segments, ...].
void add_segment_squares(const Tensor& values, std::span<double> squares);

/// squares[s] += the square of segment s's part of an embedding's gradient: rows of dy [rows, columns] with
/// the same id in ids [rows] i32 are added in one row of the table.
void add_embedding_squares(const Tensor& dy, const Tensor& ids, const RowSegments& segments,
                           std::span<double> squares);

/// Multiplies the rows of x [rows, columns] by the factor of their segment.
void scale_segments(const Tensor& x, const RowSegments& segments, std::span<const double> factors);

/// y [groups, ...] += the sum of factors[s] values[s] over the segments of each group; values [segments,
/// ...]. groups [segments] is the group of each segment; empty if there is one group.
void add_weighted(const Tensor& values, std::span<const double> factors, std::span<const Index> groups,
                  const Tensor& y);

}  // namespace conclave::kernels
