#include "core/kernels/embedding.h"

#include <algorithm>
#include <cmath>

namespace conclave::kernels {
namespace {

void check_ids(const char* operation, const Tensor& ids, Index vocabulary) {
  const auto values = ids.span<std::int32_t>();
  for (std::size_t row = 0; row < values.size(); ++row)
    require(values[row] >= 0 && values[row] < vocabulary, "{}: id {} at row {} is outside the table of {}",
            operation, values[row], row, vocabulary);
}

template <class T>
T bag_scale(double scale, std::int32_t count) {
  return static_cast<T>(scale / std::sqrt(static_cast<double>(count)));
}

}  // namespace

void embedding(const Tensor& ids, const Tensor& table, const Tensor& y, Write mode) {
  expect_rank("embedding", "table", table, 2);
  expect("embedding", "table", table, table.shape(), table.dtype());
  const Index rows = ids.numel(), vocabulary = table.size(0), hidden = table.size(1);
  expect("embedding", "ids", ids, {rows}, DType::i32);
  expect("embedding", "y", y, {rows, hidden}, table.dtype());
  if constexpr (kBuiltWithCuda)
    if (on_cuda("embedding", ids, table, y)) return cuda::embedding(ids, table, y, mode);
  check_ids("embedding", ids, vocabulary);
  const std::int32_t* pi = ids.data<std::int32_t>();
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
  if constexpr (kBuiltWithCuda)
    if (on_cuda("embedding backward", dy, ids, dtable)) return cuda::embedding_backward(dy, ids, dtable);
  const std::int32_t* pi = ids.data<std::int32_t>();
  for_floating(dtable.dtype(), "embedding backward", [&]<class T>(T) {
    const T* pdy = dy.data<T>();
    T* pt = dtable.data<T>();
#pragma omp parallel if (dy.numel() > kParallelElements)
    {
      // Each thread owns the ids of one residue class, so that no two threads add to the same row.
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

void embedding_bag(const Tensor& ids, const Tensor& offsets, double scale, const Tensor& table,
                   const Tensor& y) {
  expect_rank("embedding_bag", "table", table, 2);
  expect("embedding_bag", "table", table, table.shape(), table.dtype());
  const Index bags = expect_offsets("embedding_bag", offsets, ids.numel()), columns = table.size(1);
  expect("embedding_bag", "ids", ids, {ids.numel()}, DType::i32);
  expect("embedding_bag", "y", y, {bags, columns}, table.dtype());
  if constexpr (kBuiltWithCuda)
    if (on_cuda("embedding_bag", ids, offsets, table, y))
      return cuda::embedding_bag(ids, offsets, scale, table, y);
  check_ids("embedding_bag", ids, table.size(0));
  const std::int32_t *pi = ids.data<std::int32_t>(), *bounds = offsets.data<std::int32_t>();
  for_floating(table.dtype(), "embedding_bag", [&]<class T>(T) {
    const T* pt = table.data<T>();
    T* py = y.data<T>();
#pragma omp parallel for schedule(static) if (ids.numel() * columns > kParallelElements)
    for (Index bag = 0; bag < bags; ++bag) {
      T* to = py + bag * columns;
      std::fill(to, to + columns, T(0));
      for (std::int32_t i = bounds[bag]; i < bounds[bag + 1]; ++i) {
        const T* from = pt + pi[i] * columns;
#pragma omp simd
        for (Index c = 0; c < columns; ++c) to[c] += from[c];
      }
      if (bounds[bag] == bounds[bag + 1]) continue;
      const T factor = bag_scale<T>(scale, bounds[bag + 1] - bounds[bag]);
#pragma omp simd
      for (Index c = 0; c < columns; ++c) to[c] *= factor;
    }
  });
}

void embedding_bag_backward(const Tensor& dy, const Tensor& ids, const Tensor& offsets, double scale,
                            const Tensor& dtable) {
  const Index bags = expect_offsets("embedding_bag backward", offsets, ids.numel()), columns = dtable.size(1);
  expect("embedding_bag backward", "ids", ids, {ids.numel()}, DType::i32);
  expect("embedding_bag backward", "dy", dy, {bags, columns}, dtable.dtype());
  if constexpr (kBuiltWithCuda)
    if (on_cuda("embedding_bag backward", dy, ids, offsets, dtable))
      return cuda::embedding_bag_backward(dy, ids, offsets, scale, dtable);
  const std::int32_t *pi = ids.data<std::int32_t>(), *bounds = offsets.data<std::int32_t>();
  for_floating(dtable.dtype(), "embedding_bag backward", [&]<class T>(T) {
    const T* pdy = dy.data<T>();
    T* pt = dtable.data<T>();
#pragma omp parallel if (ids.numel() * columns > kParallelElements)
    {
      // As in embedding_backward, each thread owns the ids of one residue class.
      const Index threads = omp_get_num_threads(), me = omp_get_thread_num();
      for (Index bag = 0; bag < bags; ++bag) {
        const T* from = pdy + bag * columns;
        const T factor = bag_scale<T>(scale, bounds[bag + 1] - bounds[bag]);
        for (std::int32_t i = bounds[bag]; i < bounds[bag + 1]; ++i) {
          if (pi[i] % threads != me) continue;
          T* to = pt + pi[i] * columns;
#pragma omp simd
          for (Index c = 0; c < columns; ++c) to[c] += factor * from[c];
        }
      }
    }
  });
}

}  // namespace conclave::kernels
