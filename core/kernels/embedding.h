// Table look-up and its transpose. Ids on a CUDA device are not checked before use: there, an id outside the
// table gives NaN, and its gradient is dropped.
#pragma once

#include "core/kernels/kernel.h"

namespace conclave::kernels {

/// y [rows, hidden] = table [vocabulary, hidden] at ids [rows] i32 (added to y with Write::accumulate);
/// throws Error on an id outside the table.
void embedding(const Tensor& ids, const Tensor& table, const Tensor& y, Write write = Write::assign);

/// dtable[ids[r]] += dy[r], in order of r for every id.
void embedding_backward(const Tensor& dy, const Tensor& ids, const Tensor& dtable);

/// y [bags, columns]: row b is scale / sqrt(n) times the sum of table [vocabulary, columns] at the n ids of
/// bag b, which are ids [offsets[b], offsets[b + 1]), all i32 (the combiner `sqrtn` of TensorFlow's
/// embedding_lookup_sparse). An empty bag gives zeros; throws Error on an id outside the table.
void embedding_bag(const Tensor& ids, const Tensor& offsets, double scale, const Tensor& table,
                   const Tensor& y);

/// dtable[ids[i]] += scale / sqrt(n) dy[bag of i], in order of i for every id.
void embedding_bag_backward(const Tensor& dy, const Tensor& ids, const Tensor& offsets, double scale,
                            const Tensor& dtable);

/// CUDA implementations, called by the functions above for tensors on a device.
namespace cuda {
void embedding(const Tensor& ids, const Tensor& table, const Tensor& y, Write write);
void embedding_backward(const Tensor& dy, const Tensor& ids, const Tensor& dtable);
void embedding_bag(const Tensor& ids, const Tensor& offsets, double scale, const Tensor& table,
                   const Tensor& y);
void embedding_bag_backward(const Tensor& dy, const Tensor& ids, const Tensor& offsets, double scale,
                            const Tensor& dtable);
}  // namespace cuda

}  // namespace conclave::kernels
