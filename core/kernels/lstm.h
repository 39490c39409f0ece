// Long short-term memory (Hochreiter & Schmidhuber 1997, with the forget gate of Gers et al. 2000) over
// sequences packed end to end, for groups of sequences with a weight each. A task is some sequences of one
// group, the longest first: their next steps are one product, and those that have ended drop off the end.
// A thread takes a task through all of its time alone, so that threads never wait for each other within a
// sequence. The weights are rearranged into panels once, and serve every step.
#pragma once

#include "core/kernels/matmul.h"

namespace conclave::kernels {

/// With z = projected + h_{t-1} recurrent[g]^T, a row of z being its four gates' inputs in PyTorch's order:
///   i = sigmoid(z_i), f = sigmoid(z_f), g = tanh(z_g), o = sigmoid(z_o)
///   c_t = f c_{t-1} + i g,  h_t = o tanh(c_t),  c and h zero before a sequence's first row.
/// projected [rows, 4 hidden] (the inputs' product, and the bias); `groups` (groups + 1) and `sequences`
/// (sequences + 1) rise from 0 to rows, and a group begins where a sequence does; recurrent [groups, 4
/// hidden, hidden]. y [rows, hidden] = h; for the backward pass cells [rows, hidden] = c, gates [rows, 4
/// hidden] = i, f, g, o where defined, and order [sequences] i32: the sequences, by group and falling length.
/// scratch: see lstm_scratch.
void lstm(const Tensor& projected, RowOffsets groups, RowOffsets sequences, const Tensor& recurrent,
          const Tensor& y, const Tensor& cells, const Tensor& gates, const Tensor& order,
          const Tensor& scratch);

/// dprojected [rows, 4 hidden] is assigned; drecurrent [groups, 4 hidden, hidden], where defined,
/// accumulates. The others are as lstm() left them; scratch: see lstm_backward_scratch.
void lstm_backward(const Tensor& dy, RowOffsets groups, RowOffsets sequences, const Tensor& recurrent,
                   const Tensor& y, const Tensor& cells, const Tensor& gates, const Tensor& order,
                   const Tensor& dprojected, const Tensor& drecurrent, const Tensor& scratch);

/// What either needs to work in; of recurrent's dtype.
Shape lstm_scratch(const Tensor& recurrent, Index sequences);
Shape lstm_backward_scratch(const Tensor& recurrent, Index sequences, Index rows);

/// The CUDA twins, to which those above hand over; what they work in is their own.
namespace cuda {
void lstm(const Tensor& projected, RowOffsets groups, RowOffsets sequences, const Tensor& recurrent,
          const Tensor& y, const Tensor& cells, const Tensor& gates, const Tensor& order);
void lstm_backward(const Tensor& dy, RowOffsets groups, RowOffsets sequences, const Tensor& recurrent,
                   const Tensor& y, const Tensor& cells, const Tensor& gates, const Tensor& dprojected,
                   const Tensor& drecurrent);
}  // namespace cuda

}  // namespace conclave::kernels
