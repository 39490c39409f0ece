#include <cmath>
#include <limits>

#include "core/cuda/scratch.h"
#include "core/cuda/shared_memory.h"
#include "core/kernels/attention.h"
#include "core/kernels/cuda_kernel.h"
#include "core/kernels/cuda_tile.h"
#include "core/kernels/vector_math.h"

namespace conclave::kernels::cuda {
namespace {

using conclave::cuda::Scratch;
using conclave::cuda::shared_memory;

// A block keeps one tile of a sequence's queries (or, for the gradients of keys and values, of its keys) of
// one head, and meets the sequence's other tiles one after the other. Thread (x, y) has neighbouring rows of
// the kept tile, the same as the others of its y, who are half a warp: what one of them leaves in shared
// memory for the others needs no barrier of the block.
constexpr int kLargestHead = 256;
constexpr int kTileBytes = 32 * 1024;  // four tiles and the weights are what an A100 has room for

template <class T>
constexpr T kInfinity = std::numeric_limits<T>::infinity();  // device code cannot call it

// What follows from the size of a head, rounded up.
template <class T_, int kHead_>
struct Tiling {
  using T = T_;
  static constexpr int kHead = kHead_, kPack = kPackWidth<T>;
  // Of f64 fewer, for want of registers.
  static constexpr int kRows = std::min(kPack, kTileBytes / (kSide * kHead * static_cast<int>(sizeof(T))));
  static constexpr int kTile = kSide * kRows;  // tokens
  // Of which registers and shared memory are enough for two on a multiprocessor.
  static constexpr int kBlocks = sizeof(T) == 4 && kHead <= 64 ? 2 : 1;
  // A thread's columns of a result: kParts times kWidth neighbours, a row's threads side by side.
  static constexpr int kWidth = std::min(kPack, kHead / kSide), kParts = kHead / kSide / kWidth;
  static constexpr int kStride = kTileStride<T, kHead>, kElements = kTile * kStride;
  static constexpr int kWeightStride = kTileStride<T, kTile>, kWeights = kTile * kWeightStride;

  using Scores = T[kRows][kRows];               // of rows row(i) and the other tile's column(j)
  using Sums = Pack<T, kWidth>[kRows][kParts];  // of rows row(i)
  __device__ static int row(int i) { return static_cast<int>(threadIdx.y) * kRows + i; }
  __device__ static int column(int j) { return static_cast<int>(threadIdx.x) + j * kSide; }
  // Whether none of the warp's rows is among the first `rows`.
  __device__ static bool idle(Index rows) { return static_cast<int>(threadIdx.y) / 2 * 2 * kRows >= rows; }

  static std::size_t shared_bytes(int tiles) {
    return static_cast<std::size_t>(tiles * kElements + kWeights) * sizeof(T);
  }
};

template <class T>
struct Sequences {
  const std::int32_t* offsets;
  Index count, heads, head_size, hidden;
  T scale;
  bool causal, packed;

  __device__ bool sees(Index query, Index key) const { return !causal || key <= query; }
};

// A block's tile: its first token within the sequence. None where that is not within it.
struct Tile {
  Index begin, length, first;
};

// Sequence s has the blocks from offsets[s] / kTile + s on: as many as it has tiles, or one more.
template <int kTile, class T>
__device__ Tile find_tile(const Sequences<T>& all) {
  const Index block = blockIdx.x;
  Index s = 0, end = all.count;  // the last sequence whose blocks begin at this one or before is in [s, end)
  while (end - s > 1) {
    const Index middle = (s + end) / 2;
    if (all.offsets[middle] / kTile + middle <= block)
      s = middle;
    else
      end = middle;
  }
  const Index begin = all.offsets[s];
  return {begin, all.offsets[s + 1] - begin, (block - begin / kTile - s) * kTile};
}

// tile = up to kTile rows of this head, `count` from `from` on and then zeros, as are the columns beyond it.
template <class G, class T>
__device__ void load_tile(const Sequences<T>& all, const T* from, Index stride, Index count, T* tile) {
  constexpr int kPacks = G::kHead / G::kPack;
  for (int item = threadIdx.y * kSide + threadIdx.x; item < G::kTile * kPacks; item += kBlock) {
    const int row = item / kPacks, column = item % kPacks * G::kPack;
    store<G::kPack>(
        tile + row * G::kStride + column,
        load_columns(row < count ? from + row * stride : nullptr, column, all.head_size, all.packed));
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

// sums += this thread's part of weights [kTile, kTile] rows [kTile, kHead], of the latter the first `count`.
// The weights are those that the warp has in its registers, by way of `shared`.
template <class G, class T>
__device__ void add_weighted(const typename G::Scores& weights, T* shared, const T* rows, Index count,
                             typename G::Sums& sums) {
  __syncwarp();  // until all have read those before
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

// Over the threads of the same y.
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

// body(first) for each tile of this block's keys that its queries see.
template <class G, class T, class Body>
__device__ void for_keys(const Sequences<T>& all, const Tile& tile, Body body) {
  const Index end = all.causal ? min(tile.length, tile.first + G::kTile) : tile.length;
  for (Index first = 0; first < end; first += G::kTile) body(first);
}

template <class G, class T>
__global__ void __launch_bounds__(kBlock, G::kBlocks)
    attention_kernel(Sequences<T> all, const T* qkv, T* out, T* lse) {
  const Tile tile = find_tile<G::kTile>(all);
  const Index count = tile.length - tile.first, stride = 3 * all.hidden, head = blockIdx.y;
  if (count <= 0) return;
  T *q = shared_memory<T>(), *k = q + G::kElements, *v = k + G::kElements, *shared = v + G::kElements;
  const T* queries = qkv + tile.begin * stride + head * all.head_size;
  const T *keys = queries + all.hidden, *values = keys + all.hidden;
  load_tile<G>(all, queries + tile.first * stride, stride, count, q);
  T largest[G::kRows], total[G::kRows];  // of each row so far; `total` is this thread's part
  for (int i = 0; i < G::kRows; ++i) {
    largest[i] = -kInfinity<T>;
    total[i] = 0;
  }
  typename G::Sums sums{};
  for_keys<G>(all, tile, [&](Index first) {
    const Index left = tile.length - first;
    if (first > 0) __syncthreads();  // until all have read the tiles before
    load_tile<G>(all, keys + first * stride, stride, left, k);
    load_tile<G>(all, values + first * stride, stride, left, v);
    __syncthreads();
    if (G::idle(count)) return;
    typename G::Scores scores;
    score<G>(q, k, all.head_size, scores);
    for (int i = 0; i < G::kRows; ++i) {  // a running softmax
      T most = largest[i];
      for (int j = 0; j < G::kRows; ++j) {
        const bool seen = G::column(j) < left && all.sees(tile.first + G::row(i), first + G::column(j));
        scores[i][j] = seen ? all.scale * scores[i][j] : -kInfinity<T>;
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
    const Index token = tile.begin + tile.first + G::row(i);
    store_row<G>(all, sums[i], T(1) / sum, out + token * all.hidden + head * all.head_size);
    if (threadIdx.x == 0) lse[token * all.heads + head] = largest[i] + std::log(sum);
  }
}

// scores, which are q k^T, become the probabilities p, and dp, which is dout v^T, the scores' gradient.
template <class T>
__device__ void differentiate(const Sequences<T>& all, bool seen, T lse, T delta, T& score, T& dp) {
  score = seen ? vector_exp(all.scale * score - lse) : T(0);
  dp = score * (dp - delta) * all.scale;
}

// Also writes delta [tokens, heads], the sum of dout out over each head, for the kernel below.
template <class G, class T>
__global__ void __launch_bounds__(kBlock, G::kBlocks)
    attention_backward_queries_kernel(Sequences<T> all, const T* dout, const T* qkv, const T* out,
                                      const T* lse, T* delta, T* dqkv) {
  const Tile tile = find_tile<G::kTile>(all);
  const Index count = tile.length - tile.first, stride = 3 * all.hidden, head = blockIdx.y;
  if (count <= 0) return;
  T *q = shared_memory<T>(), *up = q + G::kElements, *k = up + G::kElements, *v = k + G::kElements,
    *shared = v + G::kElements;
  const Index column = head * all.head_size, token = tile.begin + tile.first;
  const T* keys = qkv + tile.begin * stride + all.hidden + column;
  const T* values = keys + all.hidden;
  load_tile<G>(all, qkv + token * stride + column, stride, count, q);
  load_tile<G>(all, dout + token * all.hidden + column, all.hidden, count, up);
  __syncthreads();
  T row_lse[G::kRows], row_delta[G::kRows];
  for (int i = 0; i < G::kRows; ++i) {
    const bool present = G::row(i) < count;
    const Index row = token + G::row(i);
    T dot = 0;
    for (int x = threadIdx.x; x < all.head_size && present; x += kSide)
      dot += up[G::row(i) * G::kStride + x] * out[row * all.hidden + column + x];
    row_delta[i] = row_sum(dot);
    row_lse[i] = present ? lse[row * all.heads + head] : T(0);
    if (present && threadIdx.x == 0) delta[row * all.heads + head] = row_delta[i];
  }
  typename G::Sums sums{};
  for_keys<G>(all, tile, [&](Index first) {
    const Index left = tile.length - first;
    if (first > 0) __syncthreads();  // until all have read the tiles before
    load_tile<G>(all, keys + first * stride, stride, left, k);
    load_tile<G>(all, values + first * stride, stride, left, v);
    __syncthreads();
    if (G::idle(count)) return;
    typename G::Scores p, ds;
    score<G>(q, k, all.head_size, p);
    score<G>(up, v, all.head_size, ds);
    for (int i = 0; i < G::kRows; ++i)
      for (int j = 0; j < G::kRows; ++j) {
        const bool seen = G::column(j) < left && all.sees(tile.first + G::row(i), first + G::column(j));
        differentiate(all, seen, row_lse[i], row_delta[i], p[i][j], ds[i][j]);
      }
    add_weighted<G>(ds, shared, k, left, sums);
  });
#pragma unroll
  for (int i = 0; i < G::kRows; ++i)
    if (G::row(i) < count) store_row<G>(all, sums[i], T(1), dqkv + (token + G::row(i)) * stride + column);
}

// The tile that is kept is one of keys, and the scores are k q^T.
template <class G, class T>
__global__ void __launch_bounds__(kBlock, G::kBlocks)
    attention_backward_keys_kernel(Sequences<T> all, const T* dout, const T* qkv, const T* lse,
                                   const T* delta, T* dqkv) {
  const Tile tile = find_tile<G::kTile>(all);
  const Index count = tile.length - tile.first, stride = 3 * all.hidden, head = blockIdx.y;
  if (count <= 0) return;
  T *k = shared_memory<T>(), *v = k + G::kElements, *q = v + G::kElements, *up = q + G::kElements,
    *shared = up + G::kElements;
  const Index column = head * all.head_size,
              to_keys = (tile.begin + tile.first) * stride + all.hidden + column;
  load_tile<G>(all, qkv + to_keys, stride, count, k);
  load_tile<G>(all, qkv + to_keys + all.hidden, stride, count, v);
  typename G::Sums dk{}, dv{};
  const Index begin = all.causal ? tile.first : 0;
  for (Index first = begin; first < tile.length; first += G::kTile) {
    const Index left = tile.length - first, token = tile.begin + first;
    if (first > begin) __syncthreads();  // until all have read the tiles before
    load_tile<G>(all, qkv + token * stride + column, stride, left, q);
    load_tile<G>(all, dout + token * all.hidden + column, all.hidden, left, up);
    __syncthreads();
    if (G::idle(count)) continue;
    typename G::Scores p, ds;
    score<G>(k, q, all.head_size, p);
    score<G>(v, up, all.head_size, ds);
    for (int j = 0; j < G::kRows; ++j) {
      const bool present = G::column(j) < left;
      const Index at = (token + G::column(j)) * all.heads + head;
      const T column_lse = present ? lse[at] : T(0), column_delta = present ? delta[at] : T(0);
      for (int i = 0; i < G::kRows; ++i) {
        const bool seen = present && all.sees(first + G::column(j), tile.first + G::row(i));
        differentiate(all, seen, column_lse, column_delta, p[i][j], ds[i][j]);
      }
    }
    add_weighted<G>(p, shared, up, left, dv);
    add_weighted<G>(ds, shared, q, left, dk);
  }
#pragma unroll
  for (int i = 0; i < G::kRows; ++i)
    if (G::row(i) < count) {
      T* to = dqkv + to_keys + G::row(i) * stride;
      store_row<G>(all, dk[i], T(1), to);
      store_row<G>(all, dv[i], T(1), to + all.hidden);
    }
}

template <class T>
Sequences<T> sequences_of(const Tensor& qkv, const Tensor& offsets, AttentionOptions options,
                          std::initializer_list<const void*> arrays) {
  const Index hidden = qkv.size(1) / 3, head_size = hidden / options.heads;
  return {offsets.data<std::int32_t>(),
          offsets.numel() - 1,
          options.heads,
          head_size,
          hidden,
          T(1) / std::sqrt(static_cast<T>(head_size)),
          options.mask == AttentionMask::causal,
          head_size % kPackWidth<T> == 0 && aligned(arrays)};
}

// body.operator()<Tiling>(shape of a launch but for its memory) for heads of so many elements.
template <class T, class Body>
void for_tiling(const char* operation, Index tokens, const Sequences<T>& all, Body body) {
  const auto run = [&]<int kHead>() {
    using G = Tiling<T, kHead>;
    body.template operator()<G>(LaunchShape{
        .grid = dim3(static_cast<unsigned>(tokens / G::kTile + all.count), static_cast<unsigned>(all.heads)),
        .block = dim3(kSide, kSide)});
  };
  require(all.head_size <= kLargestHead, "{}: heads of {} elements, at most {} on a CUDA device", operation,
          all.head_size, kLargestHead);
  if (all.head_size <= 32)
    run.template operator()<32>();
  else if (all.head_size <= 64)
    run.template operator()<64>();
  else if (all.head_size <= 128)
    run.template operator()<128>();
  else
    run.template operator()<kLargestHead>();
}

}  // namespace

void attention(const Tensor& qkv, const Tensor& offsets, AttentionOptions options, const Tensor& out,
               const Tensor& lse) {
  if (out.numel() == 0) return;
  for_floating(qkv.dtype(), "attention", [&]<class T>(T) {
    const auto all = sequences_of<T>(qkv, offsets, options, {qkv.raw(), out.raw()});
    for_tiling<T>("attention", qkv.size(0), all, [&]<class G>(LaunchShape shape) {
      shape.shared_bytes = G::shared_bytes(3);
      launch("attention", attention_kernel<G, T>, shape, all, qkv.data<T>(), out.data<T>(), lse.data<T>());
    });
  });
}

void attention_backward(const Tensor& dout, const Tensor& qkv, const Tensor& offsets,
                        AttentionOptions options, const Tensor& out, const Tensor& lse, const Tensor& dqkv) {
  const char* operation = "attention backward";
  if (out.numel() == 0) return;
  for_floating(qkv.dtype(), operation, [&]<class T>(T) {
    const auto all = sequences_of<T>(qkv, offsets, options, {dout.raw(), qkv.raw(), dqkv.raw()});
    Scratch scratch;
    T* delta = scratch.array<T>(lse.numel());
    for_tiling<T>(operation, qkv.size(0), all, [&]<class G>(LaunchShape shape) {
      shape.shared_bytes = G::shared_bytes(4);
      launch(operation, attention_backward_queries_kernel<G, T>, shape, all, dout.data<T>(), qkv.data<T>(),
             out.data<T>(), lse.data<T>(), delta, dqkv.data<T>());
      launch(operation, attention_backward_keys_kernel<G, T>, shape, all, dout.data<T>(), qkv.data<T>(),
             lse.data<T>(), delta, dqkv.data<T>());
    });
  });
}

}  // namespace conclave::kernels::cuda
