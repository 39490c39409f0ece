#include <vector>

#include "core/cuda/scratch.h"
#include "core/cuda/upload.h"
#include "core/kernels/cuda_kernel.h"
#include "core/kernels/cuda_tile.h"
#include "core/kernels/lstm_cell.h"

// One launch computes the next step of all sequences: the product, and after it the cells' arithmetic, in one
// kernel. The reasons are counts of bytes; measured (cuda_measured.tsv), a step of 1,024 sequences takes 38
// us, a quarter of the multiply-adds' rate.
//
// A step must read its group's recurrent weight, 4 hidden^2, for every tile of sequences. A block that
// computes all steps of its sequences alone would read no less. But it would read through one multiprocessor:
// at some 64 bytes a clock, the 1 MiB of hidden 256 in f32 takes 9 us a step, while most of the device is
// idle. Here, hidden / 16 blocks share the weight. The price is one launch, some 2 us, and that each block
// reads h, together half as much as the weight.
//
// cuDNN's LSTM can hold the weight in registers for all steps, and then reads least. But it takes one weight
// per call, which a training step would have to copy to cuDNN's layout for each group. It also multiplies the
// inputs itself, while our caller already has the product, `projected`.
namespace conclave::kernels::cuda {
namespace {

using conclave::cuda::Scratch;
using conclave::cuda::upload;

constexpr int kRows = 2;                  // sequences per thread
constexpr int kTileRows = kSide * kRows;  // and per block
constexpr int kGates = 4;
constexpr int kUnits = 2;                   // per thread, backward
constexpr int kTileUnits = kSide * kUnits;  // and per block

constexpr int kEach = 4;  // rows and columns of the weight's gradient, per thread
constexpr int kWeightTile = kSide * kEach;

// Products go this deep at a time: one pack for each thread of a row.
template <class T>
constexpr int kTileDepth = kSide * 16 / static_cast<int>(sizeof(T));
template <class T>
constexpr int kStride = kTileStride<T, kTileDepth<T>>;

// A sequence's rows.
struct Extent {
  Index begin, end;
};

// On the device: the sequences in the order of their places (by group and falling length), and the groups.
struct GroupedSequences {
  const Extent* places;
  const Index *firsts, *groups;  // where each group begins, in places and in rows

  // The row of one step of the sequence at `place`; -1 if the sequence has ended, or its group ends before
  // `place`.
  __device__ Index row(Index place, Index end, Index step) const {
    if (place >= end) return -1;
    const Extent rows = places[place];
    return rows.begin + step < rows.end ? rows.begin + step : -1;
  }
};

// Operands of a product. fetch(first) loads their next kTileDepth columns from memory; put(tile) writes them
// to shared memory. So the loads can run while the columns before are multiplied.

// kCount rows of a thread, at any addresses.
template <class T, int kCount>
struct Rows {
  Index columns;
  bool packed;
  const T* row[kCount] = {};  // null for zeros
  Pack<T, kPackWidth<T>> next[kCount] = {};

  __device__ void fetch(Index first) {
    for (int i = 0; i < kCount; ++i)
      next[i] = load_columns(row[i], first + Index{threadIdx.x} * kPackWidth<T>, columns, packed);
  }
  __device__ void put(T* tile) const {
    for (int i = 0; i < kCount; ++i)
      store<kPackWidth<T>>(tile + (threadIdx.y + kSide * i) * kStride<T> + threadIdx.x * kPackWidth<T>,
                           next[i]);
  }
};

// kTileUnits columns, from `first_unit` on, of a matrix [rows, hidden], in the form of rows.
template <class T>
struct Columns {
  static constexpr int kStep = kBlock / kTileUnits, kCount = kTileDepth<T> / kStep;
  const T* matrix;
  Index rows, hidden, first_unit;
  T next[kCount] = {};

  __device__ int unit() const { return static_cast<int>(threadIdx.y * kSide + threadIdx.x) % kTileUnits; }
  __device__ int depth(int i) const {
    return static_cast<int>(threadIdx.y * kSide + threadIdx.x) / kTileUnits + i * kStep;
  }
  __device__ void fetch(Index first) {
    for (int i = 0; i < kCount; ++i) {
      const Index row = first + depth(i), column = first_unit + unit();
      next[i] = row < rows && column < hidden ? matrix[row * hidden + column] : T(0);
    }
  }
  __device__ void put(T* tile) const {
    for (int i = 0; i < kCount; ++i) tile[unit() * kStride<T> + depth(i)] = next[i];
  }
};

// sums[i][j] += row y + kSide i of a times row x + kSide j of b, in the block's thread (x, y).
template <int kColumns, class T, class B>
__device__ void multiply(Rows<T, kRows> a, B b, Index depth, T (&sums)[kRows][kColumns]) {
  __shared__ __align__(16) T tile_a[kSide * kRows * kStride<T>], tile_b[kSide * kColumns * kStride<T>];
  a.fetch(0);
  b.fetch(0);
  for (Index first = 0; first < depth; first += kTileDepth<T>) {
    if (first > 0) __syncthreads();  // all threads have read the previous tiles
    a.put(tile_a);
    b.put(tile_b);
    __syncthreads();
    if (first + kTileDepth<T> < depth) {
      a.fetch(first + kTileDepth<T>);
      b.fetch(first + kTileDepth<T>);
    }
    add_products<kRows, kColumns>(tile_a + threadIdx.y * kStride<T>, kSide * kStride<T>,
                                  tile_b + threadIdx.x * kStride<T>, kSide * kStride<T>, kSide, sums);
  }
}

// Blocks are [tiles of sequences, tiles of kSide units, groups]. `gates` may be null.
template <class T>
__global__ void __launch_bounds__(kBlock)
    lstm_step_kernel(GroupedSequences sequences, Index step, Index hidden, bool packed, const T* projected,
                     const T* recurrent, T* y, T* cells, T* gates) {
  const Index group = blockIdx.z, first = sequences.firsts[group] + Index{blockIdx.x} * kTileRows,
              end = sequences.firsts[group + 1], first_unit = Index{blockIdx.y} * kSide;
  if (sequences.row(first, end, step) < 0) return;  // the longest sequence of the tile
  Index row[kRows];
  for (int i = 0; i < kRows; ++i) row[i] = sequences.row(first + threadIdx.y + kSide * i, end, step);
  T z[kRows][kGates]{};
  if (step > 0) {
    Rows<T, kRows> h{hidden, packed};
    for (int i = 0; i < kRows; ++i) h.row[i] = row[i] < 0 ? nullptr : y + (row[i] - 1) * hidden;
    Rows<T, kGates> weight{hidden, packed};
    for (int gate = 0; gate < kGates; ++gate) {
      const Index unit = first_unit + threadIdx.y;
      weight.row[gate] =
          unit < hidden ? recurrent + ((group * kGates + gate) * hidden + unit) * hidden : nullptr;
    }
    multiply(h, weight, hidden, z);
  }
  const Index unit = first_unit + threadIdx.x;
  if (unit >= hidden) return;
#pragma unroll
  for (int i = 0; i < kRows; ++i) {
    if (row[i] < 0) continue;
    const Index at = row[i] * hidden + unit, gates_at = row[i] * kGates * hidden + unit;
    const T* inputs = projected + gates_at;
    const LstmGates<T> of_unit = lstm_cell<T>({inputs[0] + z[i][0], inputs[hidden] + z[i][1],
                                               inputs[2 * hidden] + z[i][2], inputs[3 * hidden] + z[i][3]},
                                              step > 0 ? cells[at - hidden] : T(0), cells[at], y[at]);
    if (!gates) continue;
    T* to = gates + gates_at;
    to[0] = of_unit.i;
    to[hidden] = of_unit.f;
    to[2 * hidden] = of_unit.g;
    to[3 * hidden] = of_unit.o;
  }
}

// Blocks are [tiles of sequences, tiles of kTileUnits units, groups]. dcells [sequences, hidden], by place,
// is carried from step to step; starts [rows], if not null, receives whether each row is a sequence's first.
template <class T>
__global__ void __launch_bounds__(kBlock)
    lstm_backward_step_kernel(GroupedSequences sequences, Index step, Index hidden, bool packed, const T* dy,
                              const T* recurrent, const T* cells, const T* gates, T* dcells, T* dprojected,
                              bool* starts) {
  const Index group = blockIdx.z, first = sequences.firsts[group] + Index{blockIdx.x} * kTileRows,
              end = sequences.firsts[group + 1], first_unit = Index{blockIdx.y} * kTileUnits;
  if (sequences.row(first, end, step) < 0) return;  // the longest sequence of the tile
  const Index width = kGates * hidden;
  Index row[kRows];
  bool last[kRows];
  for (int i = 0; i < kRows; ++i) {
    const Index place = first + threadIdx.y + kSide * i;
    row[i] = sequences.row(place, end, step);
    last[i] = sequences.row(place, end, step + 1) < 0;
  }
  T dh[kRows][kUnits]{};
  if (sequences.row(first, end, step + 1) >= 0) {
    Rows<T, kRows> dgates{width, packed};
    for (int i = 0; i < kRows; ++i) dgates.row[i] = last[i] ? nullptr : dprojected + (row[i] + 1) * width;
    multiply(dgates, Columns<T>{recurrent + group * width * hidden, width, hidden, first_unit}, width, dh);
  }
#pragma unroll
  for (int i = 0; i < kRows; ++i) {
    if (row[i] < 0) continue;
    if (starts && blockIdx.y == 0 && threadIdx.x == 0) starts[row[i]] = step == 0;
#pragma unroll
    for (int j = 0; j < kUnits; ++j) {
      const Index unit = first_unit + threadIdx.x + kSide * j;
      if (unit >= hidden) continue;
      const Index at = row[i] * hidden + unit, gates_at = row[i] * width + unit;
      const T* from = gates + gates_at;
      T& carried = dcells[(first + threadIdx.y + kSide * i) * hidden + unit];
      T dcell = last[i] ? T(0) : carried;
      const LstmGates<T> gradients =
          lstm_cell_backward<T>({from[0], from[hidden], from[2 * hidden], from[3 * hidden]}, cells[at],
                                step > 0 ? cells[at - hidden] : T(0), dy[at] + dh[i][j], dcell);
      carried = dcell;
      T* to = dprojected + gates_at;
      to[0] = gradients.i;
      to[hidden] = gradients.f;
      to[2 * hidden] = gradients.g;
      to[3 * hidden] = gradients.o;
    }
  }
}

// drecurrent += the sum over all rows of dprojected times the previous row's h. Blocks are [tiles of units,
// tiles of gates, groups], and process kSide rows at a time; a thread has kEach x kEach elements of the
// weight.
template <class T>
__global__ void __launch_bounds__(kBlock)
    lstm_backward_weight_kernel(GroupedSequences sequences, Index hidden, bool packed, const T* dprojected,
                                const T* y, const bool* starts, T* drecurrent) {
  constexpr int kPack = kPackWidth<T>, kParts = kEach / kPack;
  __shared__ __align__(16) T of_gates[kSide][kWeightTile], of_units[kSide][kWeightTile];
  const Index group = blockIdx.z, begin = sequences.groups[group], end = sequences.groups[group + 1],
              width = kGates * hidden;
  const Index first_gate = Index{blockIdx.y} * kWeightTile, first_unit = Index{blockIdx.x} * kWeightTile;
  // The columns of the tile where the packs of thread number `thread` of 16 begin.
  const auto column = [](unsigned thread, int part) {
    return (part * kSide + static_cast<int>(thread)) * kPack;
  };
  T sums[kEach][kEach]{};
  for (Index first = begin; first < end; first += kSide) {
    const Index row = first + threadIdx.y;
    const bool present = row < end && !starts[row];
    if (first > begin) __syncthreads();  // all threads have read the previous tiles
    for (int part = 0; part < kParts; ++part) {
      const int at = column(threadIdx.x, part);
      store<kPack>(&of_gates[threadIdx.y][at], load_columns(present ? dprojected + row * width : nullptr,
                                                            first_gate + at, width, packed));
      store<kPack>(&of_units[threadIdx.y][at],
                   load_columns(present ? y + (row - 1) * hidden : nullptr, first_unit + at, hidden, packed));
    }
    __syncthreads();
#pragma unroll 4
    for (int r = 0; r < kSide; ++r) {
      Pack<T, kPack> left[kParts], right[kParts];
      for (int part = 0; part < kParts; ++part) {
        left[part] = load<kPack>(&of_gates[r][column(threadIdx.y, part)]);
        right[part] = load<kPack>(&of_units[r][column(threadIdx.x, part)]);
      }
#pragma unroll
      for (int i = 0; i < kEach; ++i)
#pragma unroll
        for (int j = 0; j < kEach; ++j)
          sums[i][j] += left[i / kPack].at[i % kPack] * right[j / kPack].at[j % kPack];
    }
  }
#pragma unroll
  for (int i = 0; i < kEach; ++i)
#pragma unroll
    for (int j = 0; j < kEach; ++j) {
      const Index gate = first_gate + column(threadIdx.y, i / kPack) + i % kPack,
                  unit = first_unit + column(threadIdx.x, j / kPack) + j % kPack;
      if (gate < width && unit < hidden) drecurrent[(group * width + gate) * hidden + unit] += sums[i][j];
    }
}

// The plan of the launches, on the host; kept, because a training step allocates nothing.
struct Plan {
  std::vector<std::int32_t> order;
  std::vector<Extent> places;  // the sequences in this order
  std::vector<Index> firsts;   // of each group, in places
  std::vector<Index> longest;  // for each number of a tile in its group

  Index steps() const { return longest.empty() ? 0 : longest.front(); }
  // The most tiles that any group has for a step.
  Index tiles(Index step) const {
    return std::ranges::partition_point(longest, [&](Index length) { return length > step; }) -
           longest.begin();
  }
};

const Plan& plan(RowOffsets groups, RowOffsets sequences) {
  thread_local Plan kept;
  auto& [order, places, firsts, longest] = kept;
  order.resize(sequences.size() - 1);
  order_sequences(groups, sequences, order);
  places.clear();
  for (const std::int32_t s : order)
    places.push_back({sequences[static_cast<std::size_t>(s)], sequences[static_cast<std::size_t>(s) + 1]});
  firsts.clear();
  for (const Index row : groups) firsts.push_back(first_sequence(sequences, row));
  longest.clear();
  for (std::size_t g = 0; g + 1 < firsts.size(); ++g)
    for (Index place = firsts[g], tile = 0; place < firsts[g + 1]; place += kTileRows, ++tile) {
      const auto& [begin, end] = places[static_cast<std::size_t>(place)];
      const auto at = static_cast<std::size_t>(tile);
      if (at == longest.size()) longest.push_back(0);
      longest[at] = std::max(longest[at], end - begin);
    }
  return kept;
}

GroupedSequences to_device(const char* operation, const Plan& plan, RowOffsets groups, Scratch& scratch) {
  const auto copy = [&]<class T>(std::span<const T> values) {
    T* const to = scratch.array<T>(static_cast<Index>(values.size()));
    upload(operation, values, to);
    return to;
  };
  return {copy(std::span<const Extent>(plan.places)), copy(RowOffsets(plan.firsts)), copy(groups)};
}

dim3 grid_of(Index x, Index y, Index z) {
  return dim3(static_cast<unsigned>(x), static_cast<unsigned>(y), static_cast<unsigned>(z));
}

Index tiles_of(Index items, Index tile) { return (items + tile - 1) / tile; }

}  // namespace

void lstm(const Tensor& projected, RowOffsets groups, RowOffsets sequences, const Tensor& recurrent,
          const Tensor& y, const Tensor& cells, const Tensor& gates, const Tensor& order) {
  const Plan& launches = plan(groups, sequences);
  upload("lstm", std::span<const std::int32_t>(launches.order), order.data<std::int32_t>());
  const Index hidden = y.size(1);
  if (y.numel() == 0) return;
  Scratch scratch;
  const GroupedSequences on_device = to_device("lstm", launches, groups, scratch);
  for_floating(y.dtype(), "lstm", [&]<class T>(T) {
    const bool packed = hidden % kPackWidth<T> == 0 && aligned({recurrent.raw(), y.raw()});
    for (Index step = 0; step < launches.steps(); ++step)
      launch("lstm", lstm_step_kernel<T>,
             {.grid = grid_of(launches.tiles(step), tiles_of(hidden, kSide), recurrent.size(0)),
              .block = dim3(kSide, kSide)},
             on_device, step, hidden, packed, projected.data<T>(), recurrent.data<T>(), y.data<T>(),
             cells.data<T>(), gates.defined() ? gates.data<T>() : nullptr);
  });
}

void lstm_backward(const Tensor& dy, RowOffsets groups, RowOffsets sequences, const Tensor& recurrent,
                   const Tensor& y, const Tensor& cells, const Tensor& gates, const Tensor& dprojected,
                   const Tensor& drecurrent) {
  const char* operation = "lstm backward";
  const Index hidden = y.size(1);
  if (y.numel() == 0) return;
  const Plan& launches = plan(groups, sequences);
  Scratch scratch;
  const GroupedSequences on_device = to_device(operation, launches, groups, scratch);
  bool* starts = drecurrent.defined() ? scratch.array<bool>(y.size(0)) : nullptr;
  for_floating(y.dtype(), operation, [&]<class T>(T) {
    const bool packed = hidden % kPackWidth<T> == 0 && aligned({y.raw(), dprojected.raw()});
    T* dcells = scratch.array<T>(static_cast<Index>(launches.places.size()) * hidden);
    for (Index step = launches.steps() - 1; step >= 0; --step)
      launch(operation, lstm_backward_step_kernel<T>,
             {.grid = grid_of(launches.tiles(step), tiles_of(hidden, kTileUnits), recurrent.size(0)),
              .block = dim3(kSide, kSide)},
             on_device, step, hidden, packed, dy.data<T>(), recurrent.data<T>(), cells.data<T>(),
             gates.data<T>(), dcells, dprojected.data<T>(), starts);
    if (!drecurrent.defined()) return;
    launch(operation, lstm_backward_weight_kernel<T>,
           {.grid = grid_of(tiles_of(hidden, kWeightTile), tiles_of(kGates * hidden, kWeightTile),
                            recurrent.size(0)),
            .block = dim3(kSide, kSide)},
           on_device, hidden, packed, dprojected.data<T>(), y.data<T>(), starts, drecurrent.data<T>());
  });
}

}  // namespace conclave::kernels::cuda
