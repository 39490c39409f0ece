#include "core/kernels/attention.h"

#include <algorithm>
#include <cmath>

#include "core/kernels/tile.h"
#include "core/kernels/vector_math.h"

namespace conclave::kernels {
namespace {

// Queries and keys per block: their scores, and the keys turned around, are 16 KiB each in f32, and stay in
// the first two levels of cache whatever the length.
constexpr Index kBlock = 64;

template <class T>
using Block = T[kBlock * kBlock];

struct Geometry {
  Index tokens, sequences, heads, head_size, hidden;
};

Geometry check(const char* operation, const Tensor& qkv, const Tensor& offsets,
               const AttentionOptions& options, const Tensor& out, const Tensor& lse) {
  expect_rank(operation, "qkv", qkv, 2);
  require(qkv.size(1) % 3 == 0 && options.heads > 0 && qkv.size(1) / 3 % options.heads == 0,
          "{}: qkv {} does not divide into query, key and value of {} heads", operation,
          qkv.shape().to_string(), options.heads);
  const Index tokens = qkv.size(0), hidden = qkv.size(1) / 3;
  expect(operation, "out", out, {tokens, hidden}, qkv.dtype());
  expect(operation, "lse", lse, {tokens, options.heads}, qkv.dtype());
  const Index sequences = expect_offsets(operation, offsets, tokens);
  return {tokens, sequences, options.heads, hidden / options.heads, hidden};
}

// Keys that query `i` of a sequence of `length` may see: [0, returned).
Index visible(Index i, Index length, AttentionMask mask) {
  return mask == AttentionMask::causal ? i + 1 : length;
}

// to [size, kBlock] = from [count, size] transposed, columns up to the next multiple of a vector's lanes.
template <class T>
void turn(const T* from, Index stride, Index count, Index size, T* to) {
  constexpr Index n = kLanes<T>;
  for (Index j = 0; j < count; j += n)
    for (Index x = 0; x < size; x += n) {
      const Index rows = std::min(n, count - j), columns = std::min(n, size - x);
      Vector<T> v[n];
      if (columns == n) {
        for (Index i = 0; i < n; ++i) v[i] = i < rows ? load(from + (j + i) * stride + x) : Vector<T>{};
      } else {
        for (Index i = 0; i < n; ++i)
          for (Index c = 0; c < n; ++c)
            v[i][c] = i < rows && c < columns ? from[(j + i) * stride + x + c] : T(0);
      }
      transpose<T>(v);
      for (Index c = 0; c < columns; ++c) store(to + (x + c) * kBlock + j, v[c]);
    }
}

// `keys` and what fills up the last vector: rows of scores are computed so far.
template <class T>
Index whole_vectors(Index keys) {
  return (keys + kLanes<T> - 1) / kLanes<T> * kLanes<T>;
}

// scores [queries, kBlock] = q [queries, d] k [keys, d]^T, zeros where the last vector goes on.
template <class T>
void score(const T* q, Index q_stride, Index queries, const T* k, Index k_stride, Index keys, Index d,
           Block<T>& turned, Block<T>& scores) {
  for (Index x = 0; x < d; x += kBlock) {
    const Index size = std::min(kBlock, d - x);
    turn(k + x, k_stride, keys, size, turned);
    tile_product<T>(queries, whole_vectors<T>(keys), size, q + x, q_stride, 1, turned, kBlock, scores, kBlock,
                    x > 0);
  }
}

// Calls each(first, count) for the blocks of [0, length).
template <class Each>
void for_blocks(Index length, Each each) {
  for (Index first = 0; first < length; first += kBlock) each(first, std::min(kBlock, length - first));
}

template <class T>
void forward_sequence(const T* qkv, Index begin, Index length, Index head, const Geometry& g,
                      AttentionMask mask, T* out, T* lse) {
  const Index stride = 3 * g.hidden, d = g.head_size;
  const T scale = T(1) / std::sqrt(static_cast<T>(d));
  const T* q = qkv + begin * stride + head * d;
  const T *k = q + g.hidden, *v = k + g.hidden;
  constexpr T kInfinity = std::numeric_limits<T>::infinity();
  alignas(64) Block<T> turned, p;
  for_blocks(length, [&](Index i0, Index queries) {
    T* o = out + (begin + i0) * g.hidden + head * d;
    T largest[kBlock], sum[kBlock];
    std::fill_n(largest, queries, -kInfinity);
    std::fill_n(sum, queries, T(0));
    for_blocks(visible(i0 + queries - 1, length, mask), [&](Index j0, Index keys) {  // a running softmax
      score(q + i0 * stride, stride, queries, k + j0 * stride, stride, keys, d, turned, p);
      const int width = static_cast<int>(whole_vectors<T>(keys));
      for (Index i = 0; i < queries; ++i) {
        T* row = p + i * kBlock;
        const int seen = static_cast<int>(std::clamp<Index>(visible(i0 + i, length, mask) - j0, 0, keys));
        T most = largest[i], total = 0;
#pragma omp simd reduction(max : most)
        for (int j = 0; j < width; ++j) most = std::max(most, j < seen ? scale * row[j] : -kInfinity);
#pragma omp simd reduction(+ : total)
        for (int j = 0; j < width; ++j) {
          row[j] = j < seen ? vector_exp(scale * row[j] - most) : T(0);
          total += row[j];
        }
        if (j0 > 0) {
          const T shrink = vector_exp(largest[i] - most);
          sum[i] *= shrink;
          for (Index x = 0; x < d; ++x) o[i * g.hidden + x] *= shrink;
        }
        largest[i] = most;
        sum[i] += total;
      }
      tile_product<T>(queries, d, keys, p, kBlock, 1, v + j0 * stride, stride, o, g.hidden, j0 > 0);
    });
    for (Index i = 0; i < queries; ++i) {
      const T inverse = T(1) / sum[i];
      for (Index x = 0; x < d; ++x) o[i * g.hidden + x] *= inverse;
      lse[(begin + i0 + i) * g.heads + head] = largest[i] + std::log(sum[i]);
    }
  });
}

template <class T>
void backward_sequence(const T* dout, const T* qkv, Index begin, Index length, Index head, const Geometry& g,
                       AttentionMask mask, const T* out, const T* lse, T* dqkv) {
  const Index stride = 3 * g.hidden, d = g.head_size;
  const T scale = T(1) / std::sqrt(static_cast<T>(d));
  const T* q = qkv + begin * stride + head * d;
  const T *k = q + g.hidden, *v = k + g.hidden;
  T* dq = dqkv + begin * stride + head * d;
  T *dk = dq + g.hidden, *dv = dk + g.hidden;
  alignas(64) Block<T> turned, p, ds;
  for_blocks(length, [&](Index i0, Index queries) {
    const T* up = dout + (begin + i0) * g.hidden + head * d;
    const T* o = out + (begin + i0) * g.hidden + head * d;
    T delta[kBlock];
    for (Index i = 0; i < queries; ++i) {
      T dot = 0;
#pragma omp simd reduction(+ : dot)
      for (Index x = 0; x < d; ++x) dot += up[i * g.hidden + x] * o[i * g.hidden + x];
      delta[i] = dot;
    }
    for_blocks(visible(i0 + queries - 1, length, mask), [&](Index j0, Index keys) {
      score(q + i0 * stride, stride, queries, k + j0 * stride, stride, keys, d, turned, p);
      score(up, g.hidden, queries, v + j0 * stride, stride, keys, d, turned, ds);
      const int width = static_cast<int>(whole_vectors<T>(keys));
      for (Index i = 0; i < queries; ++i) {
        const T row_lse = lse[(begin + i0 + i) * g.heads + head], row_delta = delta[i];
        T *p_row = p + i * kBlock, *ds_row = ds + i * kBlock;
        const int seen = static_cast<int>(std::clamp<Index>(visible(i0 + i, length, mask) - j0, 0, keys));
#pragma omp simd
        for (int j = 0; j < width; ++j) {
          p_row[j] = j < seen ? vector_exp(scale * p_row[j] - row_lse) : T(0);
          ds_row[j] = p_row[j] * (ds_row[j] - row_delta) * scale;
        }
      }
      // The first block of queries that sees these keys assigns their gradients.
      const bool more = i0 > (mask == AttentionMask::causal ? j0 : 0);
      const Index at = j0 * stride, to = i0 * stride;
      tile_product<T>(keys, d, queries, p, 1, kBlock, up, g.hidden, dv + at, stride, more);
      tile_product<T>(keys, d, queries, ds, 1, kBlock, q + to, stride, dk + at, stride, more);
      tile_product<T>(queries, d, keys, ds, kBlock, 1, k + at, stride, dq + to, stride, j0 > 0);
    });
  });
}

}  // namespace

void attention(const Tensor& qkv, const Tensor& offsets, AttentionOptions options, const Tensor& out,
               const Tensor& lse) {
  const Geometry g = check("attention", qkv, offsets, options, out, lse);
  if constexpr (kBuiltWithCuda)
    if (on_cuda("attention", qkv, offsets, out, lse)) return cuda::attention(qkv, offsets, options, out, lse);
  const std::int32_t* bounds = offsets.data<std::int32_t>();
  for_floating(qkv.dtype(), "attention", [&]<class T>(T) {
    const T* p = qkv.data<T>();
    T *po = out.data<T>(), *pl = lse.data<T>();
#pragma omp parallel for schedule(dynamic, 8) collapse(2) if (qkv.numel() > kParallelElements)
    for (Index s = 0; s < g.sequences; ++s)
      for (Index head = 0; head < g.heads; ++head)
        forward_sequence(p, bounds[s], bounds[s + 1] - bounds[s], head, g, options.mask, po, pl);
  });
}

void attention_backward(const Tensor& dout, const Tensor& qkv, const Tensor& offsets,
                        AttentionOptions options, const Tensor& out, const Tensor& lse, const Tensor& dqkv) {
  const Geometry g = check("attention backward", qkv, offsets, options, out, lse);
  expect("attention backward", "dout", dout, out.shape(), qkv.dtype());
  expect("attention backward", "dqkv", dqkv, qkv.shape(), qkv.dtype());
  if constexpr (kBuiltWithCuda)
    if (on_cuda("attention backward", dout, qkv, offsets, out, lse, dqkv))
      return cuda::attention_backward(dout, qkv, offsets, options, out, lse, dqkv);
  const std::int32_t* bounds = offsets.data<std::int32_t>();
  for_floating(qkv.dtype(), "attention backward", [&]<class T>(T) {
    const T *pu = dout.data<T>(), *p = qkv.data<T>(), *po = out.data<T>(), *pl = lse.data<T>();
    T* pd = dqkv.data<T>();
#pragma omp parallel for schedule(dynamic, 8) collapse(2) if (qkv.numel() > kParallelElements)
    for (Index s = 0; s < g.sequences; ++s)
      for (Index head = 0; head < g.heads; ++head)
        backward_sequence(pu, p, bounds[s], bounds[s + 1] - bounds[s], head, g, options.mask, po, pl, pd);
  });
}

}  // namespace conclave::kernels
