// Table look-up and its transpose.
#pragma once

#include "core/kernels/kernel.h"

namespace conclave::kernels {

/// y [rows, hidden] = table [vocabulary, hidden] at ids [rows] i32 (added to y with Write::accumulate);
/// throws Error on an id outside the table.
void embedding(const Tensor& ids, const Tensor& table, const Tensor& y, Write write = Write::assign);

/// dtable[ids[r]] += dy[r], in order of r for every id.
void embedding_backward(const Tensor& dy, const Tensor& ids, const Tensor& dtable);

}  // namespace conclave::kernels
