// Moving tokens to their experts and back. slots[t, j] is the row of token t's j-th choice; everything else
// follows from it. Gather and combine (with weights 1) are each other's transpose.
#pragma once

#include <span>

#include "core/kernels/kernel.h"

namespace conclave::kernels {

/// counts[e] = how often expert e occurs in experts [tokens, k] i32, where -1 is none; any other that is no
/// expert is an Error. Waits, of tensors on a CUDA device, for what is queued before.
void count_experts(const Tensor& experts, std::span<Index> counts);

/// Which of an expert's choices, counted in the order of (token, choice), get a slot: `skip` of them none,
/// the next `rows` the slots first, first + 1, ..., the others none.
struct SlotRange {
  Index skip = 0, rows = 0, first = 0;
};

/// experts [tokens, k] i32, which were counted, -> slots [tokens, k] i32, -1 for those without one. What is
/// left of `ranges`, one per expert, is nothing to be used.
void assign_slots(const Tensor& experts, std::span<SlotRange> ranges, const Tensor& slots);

/// Rows in several places, one at least: the first are those of the first tensor [n, hidden], the further
/// ones those of the next, and so on.
using RowParts = std::span<const Tensor>;
constexpr std::size_t kMostRowParts = 5;

/// rows[slots[t, j]] = x[t], x [tokens, hidden]; nothing for slot -1.
void gather_rows(const Tensor& x, const Tensor& slots, RowParts rows);

/// y[t] (=, +=) sum_j weights[t, j] rows[slots[t, j]] over those with a slot; undefined weights mean 1.
void combine_rows(RowParts rows, const Tensor& slots, const Tensor& weights, const Tensor& y, Write write);

/// The transpose of combine_rows: drows[slots[t, j]] = weights[t, j] dy[t]; dweights[t, j] = <dy[t],
/// rows[slots[t, j]]>, where defined; nothing for slot -1. Parts of drows may be those of rows: no other row
/// is read, and each before it is written.
void combine_rows_backward(const Tensor& dy, RowParts rows, const Tensor& slots, const Tensor& weights,
                           RowParts drows, const Tensor& dweights);

/// y [rows, m + n] = a [rows, m] beside b [rows, n].
void concatenate_columns(const Tensor& a, const Tensor& b, const Tensor& y);

/// x [rows, n] (=, +=) columns [first, first + n) of y.
void take_columns(const Tensor& y, Index first, const Tensor& x, Write write);

/// The CUDA twins, to which those above hand over.
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
