#include <cmath>
#include <limits>

#include "core/arena.h"
#include "core/cuda/shared_memory.h"
#include "core/kernels/attention.h"
#include "core/kernels/cuda_kernel.h"
#include "core/kernels/cuda_tile.h"
#include "core/kernels/strided_rows.h"
#include "core/kernels/vector_math.h"

namespace conclave::kernels::cuda {
namespace {

using conclave::cuda::most_shared_memory, conclave::cuda::shared_memory;

// A block keeps one tile of one head of a sequence: a tile of its queries or, for the gradients of keys and
// values, of its keys. It processes the sequence's other tiles one after another. Thread (x, y) has adjacent
// rows of the kept tile. The threads of one y, half a warp, have the same rows; what they pass to each other
// in shared memory needs no barrier of the block. Devices differ in the shared memory of a block (compute
// capability 8.0 has 163 KiB, 9.0 has 227 KiB, and 8.6, 8.9 and 12.0 have 99 KiB), and so does the largest
// tile.
constexpr int kLargestHead = 256;
constexpr int kTileBytes = 32 * 1024;  // an A100 has room for four tiles and the weights

// Device code cannot call std::numeric_limits.
template <class T>
constexpr T kInfinity = std::numeric_limits<T>::infinity();
template <class T>
constexpr T kLowest = std::numeric_limits<T>::lowest();

// A thread's rows in a device with much shared memory; fewer for f64, for lack of registers.
template <class T, int kHead>
constexpr int kMostRows = std::min(kPackWidth<T>, kTileBytes / (kSide * kHead * static_cast<int>(sizeof(T))));

// Constants that follow from the size of a head, rounded up, and from a thread's rows.
template <class T_, int kHead_, int kRows_ = kMostRows<T_, kHead_>>
struct Tiling {
  using T = T_;
  static constexpr int kHead = kHead_, kPack = kPackWidth<T>, kRows = kRows_;
  static constexpr int kTile = kSide * kRows;  // tokens
  // Two blocks share a multiprocessor if registers and shared memory suffice.
  static constexpr int kBlocks = sizeof(T) == 4 && kHead <= 64 ? 2 : 1;
  // A thread's columns of a result: kParts times kWidth adjacent ones; the threads of a row are side by side.
  static constexpr int kWidth = std::min(kPack, kHead / kSide), kParts = kHead / kSide / kWidth;
  static constexpr int kStride = kTileStride<T, kHead>, kElements = kTile * kStride;
  static constexpr int kWeightStride = kTileStride<T, kTile>, kWeights = kTile * kWeightStride;

  using Scores = T[kRows][kRows];               // for rows row(i) and the other tile's column(j)
  using Sums = Pack<T, kWidth>[kRows][kParts];  // for rows row(i)
  __device__ static int row(int i) { return static_cast<int>(threadIdx.y) * kRows + i; }
  __device__ static int column(int j) { return static_cast<int>(threadIdx.x) + j * kSide; }
  // Whether no row of this warp is among the first `rows`.
  __device__ static bool idle(Index rows) { return static_cast<int>(threadIdx.y) / 2 * 2 * kRows >= rows; }

  static std::size_t shared_bytes(int tiles) {
    return static_cast<std::size_t>(tiles * kElements + kWeights) * sizeof(T);
  }
  // Whether a block that keeps so many tiles, and a number for each row of one, fits in `bytes`.
  static bool fits(int tiles, std::size_t bytes) { return shared_bytes(tiles) + kTile * sizeof(T) <= bytes; }
};

template <class T>
struct Sequences {
  const std::int32_t *offsets, *key_offsets;
  Index count, heads, head_size;
  T scale;
  bool causal, packed;
};

// A block's tile, of queries or of keys. `first` is its first row within the sequence; if it is beyond the
// sequence's end, there is no tile.
struct Tile {
  bool of_keys, causal;
  Index first, begin, queries, key_begin, keys;  // `begin`, `key_begin`: the sequence's first rows

  // Keys that a query sees: [0, returned).
  __device__ Index visible(Index query) const {
    return causal ? max(min(query + 1 + keys - queries, keys), Index{0}) : keys;
  }
};

// The blocks for the queries of sequence s begin at offsets[s] / kTile + s: one for each tile, or one more.
// With `keys_too`, as many as its keys need by the same rule follow, so that blocks that read the same rows
// run at about the same time.
template <int kTile, class T>
__device__ Tile find_tile(const Sequences<T>& all, bool keys_too) {
  const Index block = blockIdx.x;
  const auto first_block = [&](Index s) {
    return all.offsets[s] / kTile + s + (keys_too ? all.key_offsets[s] / kTile + s : 0);
  };
  Index s = 0, end = all.count;  // [s, end) has the last sequence that begins at or before this block
  while (end - s > 1) {
    const Index middle = (s + end) / 2;
    if (first_block(middle) <= block)
      s = middle;
    else
      end = middle;
  }
  const Index begin = all.offsets[s], stop = all.offsets[s + 1], key_begin = all.key_offsets[s];
  const Index number = block - first_block(s), of_queries = stop / kTile - begin / kTile + 1;
  const bool of_keys = number >= of_queries;
  return {of_keys,
          all.causal,
          (of_keys ? number - of_queries : number) * kTile,
          begin,
          stop - begin,
          key_begin,
          all.key_offsets[s + 1] - key_begin};
}

// tile = up to kTile rows of this head: the first `count`, then zeros. Columns beyond the head are zeros,
// too.
template <class G, class T>
__device__ void load_tile(const Sequences<T>& all, StridedRows<const T> rows, Index count, T* tile) {
  constexpr int kPacks = G::kHead / G::kPack;
  for (int item = threadIdx.y * kSide + threadIdx.x; item < G::kTile * kPacks; item += kBlock) {
    const int row = item / kPacks, column = item % kPacks * G::kPack;
    store<G::kPack>(tile + row * G::kStride + column,
                    load_columns(row < count ? rows[row] : nullptr, column, all.head_size, all.packed));
  }
}

// scores = this thread's part of a b^T.
template <class G, class T>
__device__ void score(const T* a, const T* b, Index head_size, typename G::Scores& scores) {
  for (auto& row : scores)
    for (T& value : row) value = 0;
  add_products<G::kRows, G::kRows>(a + G::row(0) * G::kStride, G::kStride, b + G::column(0) * G::kStride,
                                   kSide * G::kStride,
                                   static_cast<int>((head_size + G::kPack - 1) / G::kPack), scores);
}

// sums += this thread's part of weights [kTile, kTile] times rows [kTile, kHead], of which the first `count`
// are used. The warp's weights go from its registers through `shared`.
template <class G, class T>
__device__ void add_weighted(const typename G::Scores& weights, T* shared, const T* rows, Index count,
                             typename G::Sums& sums) {
  __syncwarp();  // all threads have read the previous weights
  for (int i = 0; i < G::kRows; ++i)
    for (int j = 0; j < G::kRows; ++j) shared[G::row(i) * G::kWeightStride + G::column(j)] = weights[i][j];
  __syncwarp();
  const int end = static_cast<int>(min(count, Index{G::kTile}));
#pragma unroll 1
  for (int first = 0; first < end; first += G::kPack) {
    Pack<T, G::kPack> left[G::kRows];
    for (int i = 0; i < G::kRows; ++i)
      left[i] = load<G::kPack>(shared + G::row(i) * G::kWeightStride + first);
#pragma unroll
    for (int n = 0; n < G::kPack; ++n)
#pragma unroll
      for (int part = 0; part < G::kParts; ++part) {
        const auto right = load<G::kWidth>(rows + (first + n) * G::kStride + G::column(part) * G::kWidth);
        for (int i = 0; i < G::kRows; ++i)
          for (int w = 0; w < G::kWidth; ++w) sums[i][part].at[w] += left[i].at[n] * right.at[w];
      }
  }
}

// to = factor * values, a row of this head.
template <class G, class T>
__device__ void store_row(const Sequences<T>& all, const Pack<T, G::kWidth> (&values)[G::kParts], T factor,
                          T* to) {
#pragma unroll
  for (int part = 0; part < G::kParts; ++part) {
    const int column = G::column(part) * G::kWidth;
    Pack<T, G::kWidth> scaled = values[part];
    for (int w = 0; w < G::kWidth; ++w) scaled.at[w] *= factor;
    if (all.packed) {
      if (column < all.head_size) store<G::kWidth>(to + column, scaled);
    } else {
      for (int w = 0; w < G::kWidth; ++w)
        if (column + w < all.head_size) to[column + w] = scaled.at[w];
    }
  }
}

// Reduces over the threads of the same y.
template <class T, class Combine>
__device__ T row_reduce(T value, Combine combine) {
  for (int distance = kSide / 2; distance > 0; distance /= 2)
    value = combine(value, __shfl_xor_sync(0xffffffffu, value, distance));
  return value;
}
template <class T>
__device__ T row_sum(T value) {
  return row_reduce(value, [](T a, T b) { return a + b; });
}

// Calls body(first) for each tile of the keys that this block's queries see.
template <class G, class Body>
__device__ void for_keys(const Tile& tile, Body body) {
  const Index end = tile.visible(tile.first + G::kTile - 1);
  for (Index first = 0; first < end; first += G::kTile) body(first);
}

template <class G, class T>
__global__ void __launch_bounds__(kBlock, G::kBlocks)
    attention_kernel(Sequences<T> all, StridedRows<const T> queries, StridedRows<const T> keys,
                     StridedRows<const T> values, StridedRows<T> out, T* lse) {
  const Tile tile = find_tile<G::kTile>(all, false);
  const Index count = tile.queries - tile.first, head = blockIdx.y, column = head * all.head_size;
  if (count <= 0) return;
  T *q = shared_memory<T>(), *k = q + G::kElements, *v = k + G::kElements, *shared = v + G::kElements;
  load_tile<G>(all, queries.at(tile.begin + tile.first, column), count, q);
  T largest[G::kRows], total[G::kRows];  // for each row so far; `total` is this thread's part
  for (int i = 0; i < G::kRows; ++i) {
    largest[i] = kLowest<T>;
    total[i] = 0;
  }
  typename G::Sums sums{};
  for_keys<G>(tile, [&](Index first) {
    const Index left = tile.keys - first;
    if (first > 0) __syncthreads();  // all threads have read the previous tiles
    load_tile<G>(all, keys.at(tile.key_begin + first, column), left, k);
    load_tile<G>(all, values.at(tile.key_begin + first, column), left, v);
    __syncthreads();
    if (G::idle(count)) return;
    typename G::Scores scores;
    score<G>(q, k, all.head_size, scores);
    for (int i = 0; i < G::kRows; ++i) {  // a running softmax
      const Index seen = tile.visible(tile.first + G::row(i)) - first;
      T most = largest[i];
      for (int j = 0; j < G::kRows; ++j) {
        scores[i][j] = G::column(j) < seen ? all.scale * scores[i][j] : -kInfinity<T>;
        most = most < scores[i][j] ? scores[i][j] : most;
      }
      most = row_reduce(most, [](T a, T b) { return a < b ? b : a; });
      const T shrink = vector_exp(largest[i] - most);
      largest[i] = most;
      total[i] *= shrink;
      for (T& value : scores[i]) {
        value = value == -kInfinity<T> ? T(0) : vector_exp(value - most);
        total[i] += value;
      }
      for (auto& part : sums[i])
        for (T& value : part.at) value *= shrink;
    }
    add_weighted<G>(scores, shared, v, left, sums);
  });
  if (G::idle(count)) return;
  for (int i = 0; i < G::kRows; ++i) {
    const T sum = row_sum(total[i]);
    if (G::row(i) >= count) continue;
    const bool sees_any = tile.visible(tile.first + G::row(i)) > 0;
    const Index row = tile.begin + tile.first + G::row(i);
    store_row<G>(all, sums[i], sees_any ? T(1) / sum : T(0), out[row] + column);
    if (threadIdx.x == 0) lse[row * all.heads + head] = sees_any ? largest[i] + std::log(sum) : T(0);
  }
}

template <class T>
struct Backward {
  Sequences<T> all;
  StridedRows<const T> dout, queries, keys, values, out;
  const T* lse;
  StridedRows<T> dqueries, dkeys, dvalues;
};

// The sum of dout times out over this head of a query, in all threads of the same y.
template <class G, class T>
__device__ T delta(const Backward<T>& of, Index query, Index column, bool present) {
  T sum = 0;
  for (int x = G::column(0) * G::kPack; x < G::kHead; x += kSide * G::kPack) {
    const auto part = [&](StridedRows<const T> rows) {
      return load_columns(present ? rows[query] + column : nullptr, x, of.all.head_size, of.all.packed);
    };
    const Pack<T, G::kPack> up = part(of.dout), out = part(of.out);
    for (int n = 0; n < G::kPack; ++n) sum += up.at[n] * out.at[n];
  }
  return row_sum(sum);
}

// Turns a score q k^T into the probability p, and dp = dout v^T into the score's gradient.
template <class T>
__device__ void differentiate(const Sequences<T>& all, bool seen, T lse, T delta, T& score, T& dp) {
  score = seen ? vector_exp(all.scale * score - lse) : T(0);
  dp = score * (dp - delta) * all.scale;
}

template <class G, class T>
__device__ void backward_queries(const Backward<T>& of, const Tile& tile) {
  const Sequences<T>& all = of.all;
  const Index count = tile.queries - tile.first, head = blockIdx.y, column = head * all.head_size,
              begin = tile.begin + tile.first;
  if (count <= 0) return;
  T *q = shared_memory<T>(), *up = q + G::kElements, *k = up + G::kElements, *v = k + G::kElements,
    *shared = v + G::kElements;
  load_tile<G>(all, of.queries.at(begin, column), count, q);
  load_tile<G>(all, of.dout.at(begin, column), count, up);
  T row_lse[G::kRows], row_delta[G::kRows];
  for (int i = 0; i < G::kRows; ++i) {
    const bool present = G::row(i) < count;
    row_delta[i] = delta<G>(of, begin + G::row(i), column, present);
    row_lse[i] = present ? of.lse[(begin + G::row(i)) * all.heads + head] : T(0);
  }
  typename G::Sums sums{};
  for_keys<G>(tile, [&](Index first) {
    const Index left = tile.keys - first;
    if (first > 0) __syncthreads();  // all threads have read the previous tiles
    load_tile<G>(all, of.keys.at(tile.key_begin + first, column), left, k);
    load_tile<G>(all, of.values.at(tile.key_begin + first, column), left, v);
    __syncthreads();
    if (G::idle(count)) return;
    typename G::Scores p, ds;
    score<G>(q, k, all.head_size, p);
    score<G>(up, v, all.head_size, ds);
    for (int i = 0; i < G::kRows; ++i) {
      const Index seen = tile.visible(tile.first + G::row(i)) - first;
      for (int j = 0; j < G::kRows; ++j)
        differentiate(all, G::column(j) < seen, row_lse[i], row_delta[i], p[i][j], ds[i][j]);
    }
    add_weighted<G>(ds, shared, k, left, sums);
  });
#pragma unroll
  for (int i = 0; i < G::kRows; ++i)
    if (G::row(i) < count) store_row<G>(all, sums[i], T(1), of.dqueries[begin + G::row(i)] + column);
}

// The kept tile is one of keys, and the scores are k q^T.
template <class G, class T>
__device__ void backward_keys(const Backward<T>& of, const Tile& tile) {
  const Sequences<T>& all = of.all;
  const Index count = tile.keys - tile.first, head = blockIdx.y, column = head * all.head_size,
              begin = tile.key_begin + tile.first;
  if (count <= 0) return;
  T *k = shared_memory<T>(), *v = k + G::kElements, *q = v + G::kElements, *up = q + G::kElements,
    *shared = up + G::kElements;
  __shared__ T deltas[G::kTile];  // for the tile of queries
  load_tile<G>(all, of.keys.at(begin, column), count, k);
  load_tile<G>(all, of.values.at(begin, column), count, v);
  typename G::Sums dk{}, dv{};
  // The first query that sees any of these keys.
  const Index start = tile.causal ? max(tile.first - (tile.keys - tile.queries), Index{0}) : 0;
  for (Index first = start; first < tile.queries; first += G::kTile) {
    const Index left = tile.queries - first, row = tile.begin + first;
    if (first > start) __syncthreads();  // all threads have read the previous tiles
    load_tile<G>(all, of.queries.at(row, column), left, q);
    load_tile<G>(all, of.dout.at(row, column), left, up);
    for (int i = 0; i < G::kRows; ++i) {
      const T value = delta<G>(of, row + G::row(i), column, G::row(i) < left);
      if (threadIdx.x == 0) deltas[G::row(i)] = value;
    }
    __syncthreads();
    if (G::idle(count)) continue;
    typename G::Scores p, ds;
    score<G>(k, q, all.head_size, p);
    score<G>(v, up, all.head_size, ds);
    for (int j = 0; j < G::kRows; ++j) {
      const bool present = G::column(j) < left;
      const T column_lse = present ? of.lse[(row + G::column(j)) * all.heads + head] : T(0);
      const Index seen = present ? tile.visible(first + G::column(j)) - tile.first : 0;
      for (int i = 0; i < G::kRows; ++i)
        differentiate(all, G::row(i) < seen, column_lse, deltas[G::column(j)], p[i][j], ds[i][j]);
    }
    add_weighted<G>(p, shared, up, left, dv);
    add_weighted<G>(ds, shared, q, left, dk);
  }
#pragma unroll
  for (int i = 0; i < G::kRows; ++i)
    if (G::row(i) < count) {
      store_row<G>(all, dk[i], T(1), of.dkeys[begin + G::row(i)] + column);
      store_row<G>(all, dv[i], T(1), of.dvalues[begin + G::row(i)] + column);
    }
}

// Blocks of keys recompute each query's delta, which saves a separate launch for it.
template <class G, class T>
__global__ void __launch_bounds__(kBlock, G::kBlocks) attention_backward_kernel(Backward<T> of) {
  const Tile tile = find_tile<G::kTile>(of.all, true);
  if (tile.of_keys)
    backward_keys<G>(of, tile);
  else
    backward_queries<G>(of, tile);
}

template <class T>
Sequences<T> sequences_of(const Tensor& offsets, const Tensor& key_offsets, Index hidden,
                          AttentionOptions options, std::initializer_list<const Tensor*> matrices) {
  constexpr int kPack = kPackWidth<T>;
  const Index head_size = hidden / options.heads;
  const bool packed = head_size % kPack == 0 && std::ranges::all_of(matrices, [](const Tensor* matrix) {
                        return aligned({matrix->raw()}) && matrix->stride(0) % kPack == 0;
                      });
  return {offsets.data<std::int32_t>(),
          key_offsets.data<std::int32_t>(),
          offsets.numel() - 1,
          options.heads,
          head_size,
          T(1) / std::sqrt(static_cast<T>(head_size)),
          options.mask == AttentionMask::causal,
          packed};
}

// Calls body.operator()<Tiling>() with the most rows for which `tiles` tiles fit the device's shared memory.
template <class T, int kHead, class Body>
void for_rows(const char* operation, Index head_size, int tiles, Body body) {
  using Most = Tiling<T, kHead>;
  const std::size_t room = most_shared_memory(operation);
  if (Most::fits(tiles, room)) return body.template operator()<Most>();
  if constexpr (kHead > 64 && Most::kRows > 1) {  // smaller heads fit every device for which this is compiled
    using Half = Tiling<T, kHead, Most::kRows / 2>;
    if (Half::fits(tiles, room)) return body.template operator()<Half>();
  }
  fail(
      "{}: heads of {} elements of {} need more than the {} of shared memory that this device gives a block; "
      "raise model.heads, which makes heads smaller",
      operation, head_size, name_of(dtype_of<T>), format_bytes(room));
}

// The same for heads of `head_size` elements.
template <class T, class Body>
void for_tiling(const char* operation, Index head_size, int tiles, Body body) {
  require(head_size <= kLargestHead, "{}: heads of {} elements, at most {} on a CUDA device", operation,
          head_size, kLargestHead);
  if (head_size <= 32)
    for_rows<T, 32>(operation, head_size, tiles, body);
  else if (head_size <= 64)
    for_rows<T, 64>(operation, head_size, tiles, body);
  else if (head_size <= 128)
    for_rows<T, 128>(operation, head_size, tiles, body);
  else
    for_rows<T, kLargestHead>(operation, head_size, tiles, body);
}

template <class G, class T>
LaunchShape shape_of(const Sequences<T>& all, Index blocks, int tiles) {
  return {.grid = dim3(static_cast<unsigned>(blocks), static_cast<unsigned>(all.heads)),
          .block = dim3(kSide, kSide),
          .shared_bytes = G::shared_bytes(tiles)};
}

}  // namespace

void attention(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& offsets,
               const Tensor& key_offsets, AttentionOptions options, const Tensor& out, const Tensor& lse) {
  if (out.numel() == 0) return;
  for_floating(q.dtype(), "attention", [&]<class T>(T) {
    const auto all = sequences_of<T>(offsets, key_offsets, q.size(1), options, {&q, &k, &v, &out});
    for_tiling<T>("attention", all.head_size, 3, [&]<class G>() {
      launch("attention", attention_kernel<G, T>, shape_of<G>(all, q.size(0) / G::kTile + all.count, 3), all,
             strided_rows<const T>(q), strided_rows<const T>(k), strided_rows<const T>(v),
             strided_rows<T>(out), lse.data<T>());
    });
  });
}

void attention_backward(const Tensor& dout, const Tensor& q, const Tensor& k, const Tensor& v,
                        const Tensor& offsets, const Tensor& key_offsets, AttentionOptions options,
                        const Tensor& out, const Tensor& lse, const Tensor& dq, const Tensor& dk,
                        const Tensor& dv) {
  const char* operation = "attention backward";
  if (q.numel() + k.numel() == 0) return;
  for_floating(q.dtype(), operation, [&]<class T>(T) {
    const Backward<T> of{.all = sequences_of<T>(offsets, key_offsets, q.size(1), options,
                                                {&dout, &q, &k, &v, &out, &dq, &dk, &dv}),
                         .dout = strided_rows<const T>(dout),
                         .queries = strided_rows<const T>(q),
                         .keys = strided_rows<const T>(k),
                         .values = strided_rows<const T>(v),
                         .out = strided_rows<const T>(out),
                         .lse = lse.data<T>(),
                         .dqueries = strided_rows<T>(dq),
                         .dkeys = strided_rows<T>(dk),
                         .dvalues = strided_rows<T>(dv)};
    for_tiling<T>(operation, of.all.head_size, 4, [&]<class G>() {
      const Index blocks = q.size(0) / G::kTile + k.size(0) / G::kTile + 2 * of.all.count;
      launch(operation, attention_backward_kernel<G, T>, shape_of<G>(of.all, blocks, 4), of);
    });
  });
}

}  // namespace conclave::kernels::cuda
