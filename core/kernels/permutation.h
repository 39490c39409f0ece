// Moving tokens to their experts and back. slots[t, j] is the row of token t's j-th choice; everything else
// follows from it. Gather and combine (with weights 1) are each other's transpose.
#pragma once

#include <span>

#include "core/kernels/kernel.h"

namespace conclave::kernels {

/// counts[e] = how often expert e occurs in experts [tokens, k] i32, where -1 stands for none; any other
/// number that is no expert throws Error. For tensors on a CUDA device it waits for all work queued before.
void count_experts(const Tensor& experts, std::span<Index> counts);

/// Which of an expert's choices, counted in the order of (token, choice), get a slot: the first `skip` get
/// none, the next `rows` get the slots first, first + 1, ..., the others get none.
struct SlotRange {
  Index skip = 0, rows = 0, first = 0;
};

/// experts [tokens, k] i32, checked by count_experts(), -> slots [tokens, k] i32, -1 for choices without a
/// slot. `ranges` has one entry per expert; its contents are unspecified afterwards.
void assign_slots(const Tensor& experts, std::span<SlotRange> ranges, const Tensor& slots);

/// Rows in one or more tensors [n, hidden]: the first rows are those of the first tensor, the following ones
/// those of the next, and so on.
using RowParts = std::span<const Tensor>;
constexpr std::size_t kMostRowParts = 5;

/// rows[slots[t, j]] = x[t], x [tokens, hidden]; slot -1 is skipped.
void gather_rows(const Tensor& x, const Tensor& slots, RowParts rows);

/// y[t] (=, +=) sum_j weights[t, j] rows[slots[t, j]] over choices with a slot; undefined weights count as 1.
void combine_rows(RowParts rows, const Tensor& slots, const Tensor& weights, const Tensor& y, Write write);

/// The transpose of combine_rows: drows[slots[t, j]] = weights[t, j] dy[t]; dweights[t, j] = <dy[t],
/// rows[slots[t, j]]>, if defined; slot -1 is skipped. Parts of drows may be the same as those of rows: each
/// row is read before it is overwritten, and no row is read for another one.
void combine_rows_backward(const Tensor& dy, RowParts rows, const Tensor& slots, const Tensor& weights,
                           RowParts drows, const Tensor& dweights);

/// y [rows, m + n] = a [rows, m] beside b [rows, n].
void concatenate_columns(const Tensor& a, const Tensor& b, const Tensor& y);

/// x [rows, n] (=, +=) columns [first, first + n) of y.
void take_columns(const Tensor& y, Index first, const Tensor& x, Write write);

/// CUDA implementations, called by the functions above for tensors on a device.
namespace cuda {
void count_experts(const Tensor& experts, std::span<Index> counts);
void assign_slots(const Tensor& experts, std::span<SlotRange> ranges, const Tensor& slots);
void gather_rows(const Tensor& x, const Tensor& slots, RowParts rows);
void combine_rows(RowParts rows, const Tensor& slots, const Tensor& weights, const Tensor& y, Write write);
void combine_rows_backward(const Tensor& dy, RowParts rows, const Tensor& slots, const Tensor& weights,
                           RowParts drows, const Tensor& dweights);
void concatenate_columns(const Tensor& a, const Tensor& b, const Tensor& y);
void take_columns(const Tensor& y, Index first, const Tensor& x, Write write);
}  // namespace cuda

}  // namespace conclave::kernels
