// What each example adds to a parameter's gradient, and how large that is, for differential privacy. Rows
// that are of one example are a segment; of a product, its part of the weight's gradient is dz_s^T x_s over
// its T rows. Its norm needs no such matrix (Goodfellow 2015, arXiv:1510.01799; Li et al. 2021,
// arXiv:2110.05679, section 4): |dz_s^T x_s|^2 is the sum of the products of (x_s x_s^T) and (dz_s dz_s^T),
// element by element, which are of T x T. Where rows are many, the matrix itself is less work, tile by tile.
#pragma once

#include <span>

#include "core/kernels/matmul.h"

namespace conclave::kernels {

/// Segment s is the rows [begin(s), end(s)); what is between offsets counts `each` times, as the pixels of an
/// image do.
struct RowSegments {
  RowOffsets offsets;  ///< segments + 1, rising from 0
  Index each = 1;

  Index count() const { return static_cast<Index>(offsets.size()) - 1; }
  Index begin(Index s) const { return offsets[static_cast<std::size_t>(s)] * each; }
  Index end(Index s) const { return begin(s + 1); }
  Index rows() const { return offsets.back() * each; }
};

/// squares[s] += |dz_s^T x_s|^2, dz [rows, out], x [rows, in], in host memory, as below; never less, though
/// more by what rounding may have taken.
void add_product_squares(const Tensor& dz, const Tensor& x, const RowSegments& segments,
                         std::span<double> squares);

/// products [segments, out, in] = dz_s^T x_s.
void segment_products(const Tensor& dz, const Tensor& x, const RowSegments& segments, const Tensor& products);

/// sums [segments, columns] of the rows of x [rows, columns].
void segment_sums(const Tensor& x, const RowSegments& segments, const Tensor& sums);

/// squares[s] += |values[s]|^2, values [segments, ...].
void add_segment_squares(const Tensor& values, std::span<double> squares);

/// squares[s] += what segment s adds to the square of an embedding's gradient: rows of dy [rows, columns]
/// with one id of ids [rows] i32 come to one row of the table.
void add_embedding_squares(const Tensor& dy, const Tensor& ids, const RowSegments& segments,
                           std::span<double> squares);

/// The rows of x [rows, columns] times their segment's factor.
void scale_segments(const Tensor& x, const RowSegments& segments, std::span<const double> factors);

/// y [groups, ...] += the sum of factors[s] values[s] over the segments of each group; values [segments,
/// ...]. groups [segments], or empty where there is one.
void add_weighted(const Tensor& values, std::span<const double> factors, std::span<const Index> groups,
                  const Tensor& y);

}  // namespace conclave::kernels
