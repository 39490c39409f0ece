// Long short-term memory (Hochreiter & Schmidhuber 1997, with the forget gate of Gers et al. 2000) over
// sequences packed end to end, in groups of sequences with one weight each. A task is some sequences of one
// group, the longest first: their next steps are one product, and sequences that have ended drop off the end.
// One thread computes all steps of a task, so that threads never wait for each other within a sequence. The
// weights are rearranged into panels once, for all steps.
#pragma once

#include "core/kernels/matmul.h"

namespace conclave::kernels {

/// With z = projected + h_{t-1} recurrent[g]^T; a row of z is the inputs of its four gates in PyTorch's
/// order:
///   i = sigmoid(z_i), f = sigmoid(z_f), g = tanh(z_g), o = sigmoid(z_o)
///   c_t = f c_{t-1} + i g,  h_t = o tanh(c_t),  c and h zero before a sequence's first row.
/// projected [rows, 4 hidden] is the product of the inputs, plus the bias. `groups` (groups + 1) and
/// `sequences` (sequences + 1) rise from 0 to rows, and a group begins where a sequence does; recurrent
/// [groups, 4 hidden, hidden]. y [rows, hidden] = h. For the backward pass: cells [rows, hidden] = c; gates
/// [rows, 4 hidden] = i, f, g, o, if defined; order [sequences] i32: the sequences, by group and falling
/// length. scratch: see lstm_scratch.
void lstm(const Tensor& projected, RowOffsets groups, RowOffsets sequences, const Tensor& recurrent,
          const Tensor& y, const Tensor& cells, const Tensor& gates, const Tensor& order,
          const Tensor& scratch);

/// Assigns dprojected [rows, 4 hidden]; accumulates drecurrent [groups, 4 hidden, hidden], if defined. The
/// other arguments are as lstm() left them; scratch: see lstm_backward_scratch.
void lstm_backward(const Tensor& dy, RowOffsets groups, RowOffsets sequences, const Tensor& recurrent,
                   const Tensor& y, const Tensor& cells, const Tensor& gates, const Tensor& order,
                   const Tensor& dprojected, const Tensor& drecurrent, const Tensor& scratch);

/// The shapes of the scratch memory, of recurrent's dtype.
Shape lstm_scratch(const Tensor& recurrent, Index sequences);
Shape lstm_backward_scratch(const Tensor& recurrent, Index sequences, Index rows);

/// CUDA implementations, called by the functions above; they need no scratch from the caller.
namespace cuda {
void lstm(const Tensor& projected, RowOffsets groups, RowOffsets sequences, const Tensor& recurrent,
          const Tensor& y, const Tensor& cells, const Tensor& gates, const Tensor& order);
void lstm_backward(const Tensor& dy, RowOffsets groups, RowOffsets sequences, const Tensor& recurrent,
                   const Tensor& y, const Tensor& cells, const Tensor& gates, const Tensor& dprojected,
                   const Tensor& drecurrent);
}  // namespace cuda

}  // namespace conclave::kernels
