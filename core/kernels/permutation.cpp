#include "core/kernels/permutation.h"

#include <algorithm>
#include <cassert>
#include <cstring>

#ifdef __AVX__
#include <immintrin.h>
#endif

#include "core/kernels/row_finder.h"

namespace conclave::kernels {
namespace {

void check_rows(const char* kernel, RowParts rows, const Tensor& x) {
  require(!rows.empty() && rows.size() <= kMostRowParts, "{}: rows in {} parts, expected 1 to {}", kernel,
          rows.size(), kMostRowParts);
  for (const Tensor& part : rows) {
    expect_rank(kernel, "rows", part, 2);
    expect(kernel, "rows", part, {part.size(0), x.size(1)}, x.dtype());
  }
}

// More bytes than this leave the caches before they are read again. Writing around the caches then saves
// fetching the lines that are overwritten.
constexpr Index kStreamedBytes = Index{8} << 20;

// Copies `bytes` around the caches; `to` and `bytes` are multiples of 32. Call stream_end() before others
// read it.
#ifdef __AVX__
void stream(const void* from, Index bytes, void* to) {
  const auto* source = static_cast<const float*>(from);
  auto* target = static_cast<float*>(to);
  for (Index i = 0; i < bytes / 4; i += 8) _mm256_stream_ps(target + i, _mm256_loadu_ps(source + i));
}
void stream_end() { _mm_sfence(); }
#else
void stream(const void* from, Index bytes, void* to) {
  std::memcpy(to, from, static_cast<std::size_t>(bytes));
}
void stream_end() {}
#endif

// kernels::on_cuda() for rows in parts.
template <class... Tensors>
bool on_cuda(const char* kernel, RowParts rows, const Tensor& first, const Tensors&... others) {
  for (const Tensor& part : rows) kernels::on_cuda(kernel, first, part);
  return kernels::on_cuda(kernel, first, others...);
}

bool aligned(const Tensor& x) { return reinterpret_cast<std::uintptr_t>(x.raw()) % 32 == 0; }

[[maybe_unused]] Index rows_in(RowParts parts) {
  Index rows = 0;
  for (const Tensor& part : parts) rows += part.size(0);
  return rows;
}

void check_slots(const char* kernel, const Tensor& slots, const Tensor& x, [[maybe_unused]] RowParts rows) {
  expect_rank(kernel, "slots", slots, 2);
  expect(kernel, "slots", slots, {x.size(0), slots.size(1)}, DType::i32);
  assert(slots.device() != Device::cpu ||
         std::ranges::all_of(slots.span<std::int32_t>(),
                             [&](std::int32_t slot) { return slot >= -1 && slot < rows_in(rows); }));
}

}  // namespace

void count_experts(const Tensor& experts, std::span<Index> counts) {
  expect("count_experts", "experts", experts, experts.shape(), DType::i32);
  if constexpr (kBuiltWithCuda)
    if (on_cuda("count_experts", experts)) return cuda::count_experts(experts, counts);
  std::ranges::fill(counts, 0);
  for (const std::int32_t expert : experts.span<std::int32_t>()) {
    if (expert == -1) continue;
    require(expert >= 0 && expert < static_cast<Index>(counts.size()), "count_experts: expert {} of {}",
            expert, counts.size());
    ++counts[static_cast<std::size_t>(expert)];
  }
}

void assign_slots(const Tensor& experts, std::span<SlotRange> ranges, const Tensor& slots) {
  expect("assign_slots", "experts", experts, experts.shape(), DType::i32);
  expect("assign_slots", "slots", slots, experts.shape(), DType::i32);
  if constexpr (kBuiltWithCuda)
    if (on_cuda("assign_slots", experts, slots)) return cuda::assign_slots(experts, ranges, slots);
  std::int32_t* slot = slots.data<std::int32_t>();
  for (const std::int32_t expert : experts.span<std::int32_t>()) {
    std::int32_t& to = *slot++;
    to = -1;
    if (expert == -1) continue;
    require(expert >= 0 && expert < static_cast<Index>(ranges.size()), "assign_slots: expert {} of {}",
            expert, ranges.size());
    auto& [skip, rows, first] = ranges[static_cast<std::size_t>(expert)];
    if (skip > 0) {
      --skip;
    } else if (rows > 0) {
      --rows;
      to = static_cast<std::int32_t>(first++);
    }
  }
}

void gather_rows(const Tensor& x, const Tensor& slots, RowParts rows) {
  expect_rank("gather_rows", "x", x, 2);
  expect("gather_rows", "x", x, x.shape(), x.dtype());
  check_rows("gather_rows", rows, x);
  check_slots("gather_rows", slots, x, rows);
  const Index tokens = x.size(0), hidden = x.size(1), k = slots.size(1);
  if constexpr (kBuiltWithCuda)
    if (on_cuda("gather_rows", rows, x, slots)) return cuda::gather_rows(x, slots, rows);
  const std::int32_t* ps = slots.data<std::int32_t>();
  for_floating(x.dtype(), "gather_rows", [&]<class T>(T) {
    const T* px = x.data<T>();
    const RowFinder<T> row(rows);
    const Index bytes = hidden * static_cast<Index>(sizeof(T));
    const bool streamed =
        tokens * k * bytes > kStreamedBytes && bytes % 32 == 0 && std::ranges::all_of(rows, aligned);
#pragma omp parallel if (x.numel() * k > kParallelElements)
    {
#pragma omp for schedule(static)
      for (Index token = 0; token < tokens; ++token)
        for (Index j = 0; j < k; ++j) {
          const std::int32_t slot = ps[token * k + j];
          if (slot < 0) continue;
          if (streamed)
            stream(px + token * hidden, bytes, row(slot));
          else
            std::copy(px + token * hidden, px + (token + 1) * hidden, row(slot));
        }
      if (streamed) stream_end();
    }
  });
}

void combine_rows(RowParts rows, const Tensor& slots, const Tensor& weights, const Tensor& y, Write mode) {
  expect_rank("combine_rows", "y", y, 2);
  check_rows("combine_rows", rows, y);
  check_slots("combine_rows", slots, y, rows);
  const Index tokens = y.size(0), hidden = y.size(1), k = slots.size(1);
  if (weights.defined()) expect("combine_rows", "weights", weights, {tokens, k}, y.dtype());
  if constexpr (kBuiltWithCuda)
    if (on_cuda("combine_rows", rows, y, slots, weights))
      return cuda::combine_rows(rows, slots, weights, y, mode);
  const std::int32_t* ps = slots.data<std::int32_t>();
  for_floating(y.dtype(), "combine_rows", [&]<class T>(T) {
    const RowFinder<T> row(rows);
    const T* pw = weights.defined() ? weights.data<T>() : nullptr;
    T* py = y.data<T>();
#pragma omp parallel for schedule(static) if (y.numel() * k > kParallelElements)
    for (Index token = 0; token < tokens; ++token) {
      T* to = py + token * hidden;
      bool assign = mode == Write::assign;
      for (Index j = 0; j < k; ++j) {
        const std::int32_t slot = ps[token * k + j];
        if (slot < 0) continue;
        const T weight = pw ? pw[token * k + j] : T(1);
        const T* from = row(slot);
        if (assign) {
#pragma omp simd
          for (Index i = 0; i < hidden; ++i) to[i] = weight * from[i];
        } else {
#pragma omp simd
          for (Index i = 0; i < hidden; ++i) to[i] += weight * from[i];
        }
        assign = false;
      }
      if (assign) std::fill(to, to + hidden, T(0));
    }
  });
}

void combine_rows_backward(const Tensor& dy, RowParts rows, const Tensor& slots, const Tensor& weights,
                           RowParts drows, const Tensor& dweights) {
  check_rows("combine_rows backward", rows, dy);
  check_rows("combine_rows backward", drows, dy);
  check_slots("combine_rows backward", slots, dy, drows);
  require(std::ranges::equal(rows, drows, {}, &Tensor::shape, &Tensor::shape),
          "combine_rows backward: the parts of drows must have the shapes of those of rows");
  const Index tokens = dy.size(0), hidden = dy.size(1), k = slots.size(1);
  if (dweights.defined()) expect("combine_rows backward", "dweights", dweights, {tokens, k}, dy.dtype());
  if constexpr (kBuiltWithCuda)
    if (on_cuda("combine_rows backward", rows, dy, slots, weights, dweights) &&
        on_cuda("combine_rows backward", drows, dy))
      return cuda::combine_rows_backward(dy, rows, slots, weights, drows, dweights);
  const std::int32_t* ps = slots.data<std::int32_t>();
  for_floating(dy.dtype(), "combine_rows backward", [&]<class T>(T) {
    const RowFinder<T> row_at(rows), drow_at(drows);
    const T *up = dy.data<T>(), *pw = weights.defined() ? weights.data<T>() : nullptr;
    T* pdw = dweights.defined() ? dweights.data<T>() : nullptr;
#pragma omp parallel for schedule(static) if (dy.numel() * k > kParallelElements)
    for (Index token = 0; token < tokens; ++token) {
      const T* from = up + token * hidden;
      for (Index j = 0; j < k; ++j) {
        const std::int32_t slot = ps[token * k + j];
        if (slot < 0) continue;
        const T weight = pw ? pw[token * k + j] : T(1);
        T* to = drow_at(slot);
        const T* row = row_at(slot);
        T dot = 0;
#pragma omp simd reduction(+ : dot)
        for (Index i = 0; i < hidden; ++i) {
          dot += from[i] * row[i];
          to[i] = weight * from[i];
        }
        if (pdw) pdw[token * k + j] = dot;
      }
    }
  });
}

void concatenate_columns(const Tensor& a, const Tensor& b, const Tensor& y) {
  const Index rows = y.size(0), m = a.size(1), n = b.size(1);
  expect("concatenate", "a", a, {rows, m}, y.dtype());
  expect("concatenate", "b", b, {rows, n}, y.dtype());
  expect("concatenate", "y", y, {rows, m + n}, y.dtype());
  if constexpr (kBuiltWithCuda)
    if (on_cuda("concatenate", a, b, y)) return cuda::concatenate_columns(a, b, y);
  for_floating(y.dtype(), "concatenate", [&]<class T>(T) {
    const T *pa = a.data<T>(), *pb = b.data<T>();
    T* py = y.data<T>();
#pragma omp parallel for schedule(static) if (y.numel() > kParallelElements)
    for (Index row = 0; row < rows; ++row) {
      std::copy(pa + row * m, pa + (row + 1) * m, py + row * (m + n));
      std::copy(pb + row * n, pb + (row + 1) * n, py + row * (m + n) + m);
    }
  });
}

void take_columns(const Tensor& y, Index first, const Tensor& x, Write mode) {
  const Index rows = x.size(0), n = x.size(1), width = y.size(1);
  expect("take_columns", "x", x, {rows, n}, y.dtype());
  require(first >= 0 && first + n <= width, "take_columns: columns [{}, {}) of {}", first, first + n, width);
  if constexpr (kBuiltWithCuda)
    if (on_cuda("take_columns", y, x)) return cuda::take_columns(y, first, x, mode);
  for_floating(y.dtype(), "take_columns", [&]<class T>(T) {
    const T* py = y.data<T>();
    T* px = x.data<T>();
#pragma omp parallel for schedule(static) if (x.numel() > kParallelElements)
    for (Index row = 0; row < rows; ++row)
      for (Index i = 0; i < n; ++i) write(px[row * n + i], py[row * width + first + i], mode);
  });
}

}  // namespace conclave::kernels
