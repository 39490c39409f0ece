#include "core/kernels/embedding.h"

#include <algorithm>

namespace conclave::kernels {

void embedding(const Tensor& ids, const Tensor& table, const Tensor& y, Write mode) {
  expect_rank("embedding", "table", table, 2);
  const Index rows = ids.numel(), vocabulary = table.size(0), hidden = table.size(1);
  expect("embedding", "ids", ids, {rows}, DType::i32);
  expect("embedding", "y", y, {rows, hidden}, table.dtype());
  const std::int32_t* pi = ids.data<std::int32_t>();
  for (Index row = 0; row < rows; ++row)
    require(pi[row] >= 0 && pi[row] < vocabulary, "embedding: id {} at row {} is outside the table of {}",
            pi[row], row, vocabulary);
  for_floating(table.dtype(), "embedding", [&]<class T>(T) {
    const T* pt = table.data<T>();
    T* py = y.data<T>();
#pragma omp parallel for schedule(static) if (y.numel() > kParallelElements)
    for (Index row = 0; row < rows; ++row) {
      const T* from = pt + pi[row] * hidden;
      T* to = py + row * hidden;
      if (mode == Write::assign)
        std::copy(from, from + hidden, to);
      else
        for (Index i = 0; i < hidden; ++i) to[i] += from[i];
    }
  });
}

void embedding_backward(const Tensor& dy, const Tensor& ids, const Tensor& dtable) {
  const Index rows = ids.numel(), hidden = dtable.size(1);
  expect("embedding backward", "dy", dy, {rows, hidden}, dtable.dtype());
  const std::int32_t* pi = ids.data<std::int32_t>();
  for_floating(dtable.dtype(), "embedding backward", [&]<class T>(T) {
    const T* pdy = dy.data<T>();
    T* pt = dtable.data<T>();
#pragma omp parallel if (dy.numel() > kParallelElements)
    {
      // Each thread owns the ids of one residue class: no two threads add to one row, whatever the batch
      // repeats.
      const Index threads = omp_get_num_threads(), me = omp_get_thread_num();
      for (Index row = 0; row < rows; ++row) {
        if (pi[row] % threads != me) continue;
        const T* from = pdy + row * hidden;
        T* to = pt + pi[row] * hidden;
#pragma omp simd
        for (Index i = 0; i < hidden; ++i) to[i] += from[i];
      }
    }
  });
}

}  // namespace conclave::kernels
