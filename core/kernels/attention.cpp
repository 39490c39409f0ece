#include "core/kernels/attention.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "core/kernels/strided_rows.h"
#include "core/kernels/tile.h"
#include "core/kernels/vector_math.h"

namespace conclave::kernels {
namespace {

// Queries and keys per block: their scores, and the transposed keys, take 16 KiB each in f32, and stay in the
// first two levels of cache for any length.
constexpr Index kBlock = 64;

template <class T>
using Block = T[kBlock * kBlock];

struct Geometry {
  Index sequences, heads, head_size;
};

Geometry check(const char* operation, const Tensor& q, const Tensor& k, const Tensor& v,
               const Tensor& offsets, const Tensor& key_offsets, const AttentionOptions& options,
               const Tensor& out, const Tensor& lse) {
  expect_rank(operation, "q", q, 2);
  expect_rank(operation, "k", k, 2);
  const Index rows = q.size(0), hidden = q.size(1), key_rows = k.size(0);
  require(options.heads > 0 && hidden % options.heads == 0, "{}: q {} does not divide into {} heads",
          operation, q.shape(), options.heads);
  expect_rows(operation, "q", q, rows, hidden, q.dtype());
  expect_rows(operation, "k", k, key_rows, hidden, q.dtype());
  expect_rows(operation, "v", v, key_rows, hidden, q.dtype());
  expect(operation, "out", out, {rows, hidden}, q.dtype());
  expect(operation, "lse", lse, {rows, options.heads}, q.dtype());
  const Index sequences = expect_offsets(operation, offsets, rows),
              of_keys = expect_offsets(operation, key_offsets, key_rows, "key offsets");
  require(of_keys == sequences, "{}: {} sequences of queries, but {} of keys", operation, sequences, of_keys);
  return {sequences, options.heads, hidden / options.heads};
}

// The query, key and value columns of qkv [tokens, 3 hidden], or of its gradient.
std::array<Tensor, 3> parts_of(const char* operation, const Tensor& qkv, Index heads) {
  expect_rank(operation, "qkv", qkv, 2);
  const Index hidden = qkv.size(1) / 3;
  require(qkv.size(1) % 3 == 0 && heads > 0 && hidden % heads == 0,
          "{}: qkv {} does not divide into query, key and value of {} heads", operation, qkv.shape(), heads);
  return {qkv.slice(1, 0, hidden), qkv.slice(1, hidden, 2 * hidden), qkv.slice(1, 2 * hidden, 3 * hidden)};
}

// The rows of one sequence, and the keys that its queries see.
struct Sequence {
  Index begin, queries, key_begin, keys;
  Index first_sees, more_each;  // keys that the first query sees, negative for none; more for each next one

  Sequence(std::int32_t begin, std::int32_t end, std::int32_t key_begin, std::int32_t key_end,
           AttentionMask mask)
      : begin(begin),
        queries(end - begin),
        key_begin(key_begin),
        keys(key_end - key_begin),
        first_sees(mask == AttentionMask::causal ? keys - queries + 1 : keys),
        more_each(mask == AttentionMask::causal ? 1 : 0) {}

  /// Only the queries [first, first + count), each of which sees the same keys as before.
  Sequence part(Index first, Index count) const {
    Sequence some = *this;
    some.begin += first;
    some.queries = count;
    some.first_sees += first * more_each;
    return some;
  }

  /// Keys that query `i` may see: [0, returned).
  Index visible(Index i) const { return std::max<Index>(first_sees + i * more_each, 0); }
};

// to [size, kBlock] = from [count, size] transposed, with zeros up to the next multiple of a vector's lanes.
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

// `keys` rounded up to whole vectors: rows of scores are computed up to there.
template <class T>
Index whole_vectors(Index keys) {
  return (keys + kLanes<T> - 1) / kLanes<T> * kLanes<T>;
}

// scores [queries, kBlock] = q [queries, d] k [keys, d]^T, with zeros to the end of the last vector.
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

// Rows [begin, end) of d columns = 0.
template <class T>
void clear(StridedRows<T> rows, Index begin, Index end, Index d) {
  for (Index row = begin; row < end; ++row) std::fill_n(rows[row], d, T(0));
}

// One head of a sequence; the arguments begin at the sequence's first row.
template <class T>
void forward_sequence(const Sequence& sequence, Index d, StridedRows<const T> q, StridedRows<const T> k,
                      StridedRows<const T> v, StridedRows<T> out, StridedRows<T> lse) {
  const T scale = T(1) / std::sqrt(static_cast<T>(d));
  constexpr T kInfinity = std::numeric_limits<T>::infinity();
  alignas(64) Block<T> turned, p;
  for_blocks(sequence.queries, [&](Index i0, Index queries) {
    const StridedRows<T> o = out.at(i0, 0);
    T largest[kBlock], sum[kBlock];
    std::fill_n(largest, queries, std::numeric_limits<T>::lowest());
    std::fill_n(sum, queries, T(0));
    const Index end = sequence.visible(i0 + queries - 1);
    if (end == 0) clear(o, 0, queries, d);
    for_blocks(end, [&](Index j0, Index keys) {  // a running softmax
      score(q[i0], q.stride, queries, k[j0], k.stride, keys, d, turned, p);
      const int width = static_cast<int>(whole_vectors<T>(keys));
      for (Index i = 0; i < queries; ++i) {
        T* row = p + i * kBlock;
        const int seen = static_cast<int>(std::clamp<Index>(sequence.visible(i0 + i) - j0, 0, keys));
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
          T* o_row = o[i];
          for (Index x = 0; x < d; ++x) o_row[x] *= shrink;
        }
        largest[i] = most;
        sum[i] += total;
      }
      tile_product<T>(queries, d, keys, p, kBlock, 1, v[j0], v.stride, o.data, o.stride, j0 > 0);
    });
    for (Index i = 0; i < queries; ++i) {
      const bool sees_any = sequence.visible(i0 + i) > 0;
      const T inverse = sees_any ? T(1) / sum[i] : T(0);
      T* row = o[i];
      for (Index x = 0; x < d; ++x) row[x] *= inverse;
      *lse[i0 + i] = sees_any ? largest[i] + std::log(sum[i]) : T(0);
    }
  });
}

template <class T>
void backward_sequence(const Sequence& sequence, Index d, StridedRows<const T> dout, StridedRows<const T> q,
                       StridedRows<const T> k, StridedRows<const T> v, StridedRows<const T> out,
                       StridedRows<const T> lse, StridedRows<T> dq, StridedRows<T> dk, StridedRows<T> dv) {
  const T scale = T(1) / std::sqrt(static_cast<T>(d));
  alignas(64) Block<T> turned, p, ds;
  Index assigned = 0;  // keys whose gradients the blocks of queries so far have assigned
  for_blocks(sequence.queries, [&](Index i0, Index queries) {
    const StridedRows<const T> up = dout.at(i0, 0), o = out.at(i0, 0);
    T delta[kBlock];
    for (Index i = 0; i < queries; ++i) {
      const T *up_row = up[i], *o_row = o[i];
      T dot = 0;
#pragma omp simd reduction(+ : dot)
      for (Index x = 0; x < d; ++x) dot += up_row[x] * o_row[x];
      delta[i] = dot;
    }
    // Rounded up to whole blocks, so that either all keys of a block have been assigned or none.
    const Index end =
        std::min((sequence.visible(i0 + queries - 1) + kBlock - 1) / kBlock * kBlock, sequence.keys);
    if (end == 0) clear(dq, i0, i0 + queries, d);
    for_blocks(end, [&](Index j0, Index keys) {
      score(q[i0], q.stride, queries, k[j0], k.stride, keys, d, turned, p);
      score(up.data, up.stride, queries, v[j0], v.stride, keys, d, turned, ds);
      const int width = static_cast<int>(whole_vectors<T>(keys));
      for (Index i = 0; i < queries; ++i) {
        const T row_lse = *lse[i0 + i], row_delta = delta[i];
        T *p_row = p + i * kBlock, *ds_row = ds + i * kBlock;
        const int seen = static_cast<int>(std::clamp<Index>(sequence.visible(i0 + i) - j0, 0, keys));
#pragma omp simd
        for (int j = 0; j < width; ++j) {
          p_row[j] = j < seen ? vector_exp(scale * p_row[j] - row_lse) : T(0);
          ds_row[j] = p_row[j] * (ds_row[j] - row_delta) * scale;
        }
      }
      const bool more = j0 < assigned;
      tile_product<T>(keys, d, queries, p, 1, kBlock, up.data, up.stride, dv[j0], dv.stride, more);
      tile_product<T>(keys, d, queries, ds, 1, kBlock, q[i0], q.stride, dk[j0], dk.stride, more);
      tile_product<T>(queries, d, keys, ds, kBlock, 1, k[j0], k.stride, dq[i0], dq.stride, j0 > 0);
    });
    assigned = end;
  });
  clear(dk, assigned, sequence.keys, d);
  clear(dv, assigned, sequence.keys, d);
}

// Calls body(sequence, head) for all sequences and heads, on several threads if there are enough elements.
// With `in_parts`, where queries do not depend on each other, few sequences are divided into parts.
template <class Body>
void for_heads(const Geometry& g, Index elements, const Tensor& offsets, const Tensor& key_offsets,
               AttentionMask mask, bool in_parts, Body body) {
  const std::int32_t *bounds = offsets.data<std::int32_t>(), *key_bounds = key_offsets.data<std::int32_t>();
  const Index heads = g.sequences * g.heads, wanted = 4 * omp_get_max_threads();
  const Index parts = in_parts && heads > 0 ? std::max<Index>((wanted + heads - 1) / heads, 1) : 1;
  const Index together = std::clamp<Index>(heads * parts / wanted, 1, 8);
#pragma omp parallel for schedule(dynamic, together) collapse(3) if (elements > kParallelElements)
  for (Index s = 0; s < g.sequences; ++s)
    for (Index head = 0; head < g.heads; ++head)
      for (Index part = 0; part < parts; ++part) {
        const Sequence whole(bounds[s], bounds[s + 1], key_bounds[s], key_bounds[s + 1], mask);
        const Index blocks = (whole.queries + kBlock - 1) / kBlock,
                    most = (blocks + parts - 1) / parts * kBlock, first = part * most,
                    queries = std::min(most, whole.queries - first);
        if (queries > 0 || part == 0) body(whole.part(first, queries), head);
      }
}

}  // namespace

void attention(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& offsets,
               const Tensor& key_offsets, AttentionOptions options, const Tensor& out, const Tensor& lse) {
  const Geometry g = check("attention", q, k, v, offsets, key_offsets, options, out, lse);
  if constexpr (kBuiltWithCuda)
    if (on_cuda("attention", q, k, v, offsets, key_offsets, out, lse))
      return cuda::attention(q, k, v, offsets, key_offsets, options, out, lse);
  for_floating(q.dtype(), "attention", [&]<class T>(T) {
    const auto pq = strided_rows<const T>(q), pk = strided_rows<const T>(k), pv = strided_rows<const T>(v);
    const auto po = strided_rows<T>(out), pl = strided_rows<T>(lse);
    for_heads(g, q.numel() + 2 * k.numel(), offsets, key_offsets, options.mask, true,
              [&](const Sequence& s, Index head) {
                const Index column = head * g.head_size;
                forward_sequence(s, g.head_size, pq.at(s.begin, column), pk.at(s.key_begin, column),
                                 pv.at(s.key_begin, column), po.at(s.begin, column), pl.at(s.begin, head));
              });
  });
}

void attention_backward(const Tensor& dout, const Tensor& q, const Tensor& k, const Tensor& v,
                        const Tensor& offsets, const Tensor& key_offsets, AttentionOptions options,
                        const Tensor& out, const Tensor& lse, const Tensor& dq, const Tensor& dk,
                        const Tensor& dv) {
  const char* operation = "attention backward";
  const Geometry g = check(operation, q, k, v, offsets, key_offsets, options, out, lse);
  expect(operation, "dout", dout, out.shape(), q.dtype());
  expect_rows(operation, "dq", dq, q.size(0), q.size(1), q.dtype());
  expect_rows(operation, "dk", dk, k.size(0), k.size(1), q.dtype());
  expect_rows(operation, "dv", dv, v.size(0), v.size(1), q.dtype());
  if constexpr (kBuiltWithCuda)
    if (on_cuda(operation, dout, q, k, v, offsets, key_offsets, out, lse, dq, dk, dv))
      return cuda::attention_backward(dout, q, k, v, offsets, key_offsets, options, out, lse, dq, dk, dv);
  for_floating(q.dtype(), operation, [&]<class T>(T) {
    const auto pu = strided_rows<const T>(dout), pq = strided_rows<const T>(q), pk = strided_rows<const T>(k),
               pv = strided_rows<const T>(v), po = strided_rows<const T>(out),
               pl = strided_rows<const T>(lse);
    const auto pdq = strided_rows<T>(dq), pdk = strided_rows<T>(dk), pdv = strided_rows<T>(dv);
    for_heads(g, q.numel() + 2 * k.numel(), offsets, key_offsets, options.mask, false,
              [&](const Sequence& s, Index head) {
                const Index column = head * g.head_size;
                const auto of_queries = [&](auto rows) { return rows.at(s.begin, column); };
                const auto of_keys = [&](auto rows) { return rows.at(s.key_begin, column); };
                backward_sequence(s, g.head_size, of_queries(pu), of_queries(pq), of_keys(pk), of_keys(pv),
                                  of_queries(po), pl.at(s.begin, head), of_queries(pdq), of_keys(pdk),
                                  of_keys(pdv));
              });
  });
}

void attention(const Tensor& qkv, const Tensor& offsets, AttentionOptions options, const Tensor& out,
               const Tensor& lse) {
  const auto [q, k, v] = parts_of("attention", qkv, options.heads);
  attention(q, k, v, offsets, offsets, options, out, lse);
}

void attention_backward(const Tensor& dout, const Tensor& qkv, const Tensor& offsets,
                        AttentionOptions options, const Tensor& out, const Tensor& lse, const Tensor& dqkv) {
  const char* operation = "attention backward";
  const auto [q, k, v] = parts_of(operation, qkv, options.heads);
  const auto [dq, dk, dv] = parts_of(operation, dqkv, options.heads);
  attention_backward(dout, q, k, v, offsets, offsets, options, out, lse, dq, dk, dv);
}

}  // namespace conclave::kernels
