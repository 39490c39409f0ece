#include <cmath>

#include "core/cuda/scratch.h"
#include "core/kernels/cuda_kernel.h"
#include "core/kernels/cuda_sort.h"
#include "core/kernels/embedding.h"

namespace conclave::kernels::cuda {
namespace {

template <class T, int kWidth>
__device__ Pack<T, kWidth> no_row() {
  Pack<T, kWidth> values;
  for (int j = 0; j < kWidth; ++j) values.at[j] = not_a_number<T>();
  return values;
}

template <class T, int kWidth, int kTeam>
__global__ void __launch_bounds__(kBlock)
    embedding_kernel(Index rows, Index hidden, Index vocabulary, const std::int32_t* ids, const T* table,
                     T* y, Write mode) {
  for_team_rows(rows, [&](Index row) {
    const Index id = ids[row];
    const bool known = id >= 0 && id < vocabulary;
    for_columns<kWidth, kTeam>(hidden, [&](Index i) {
      const auto value = known ? load<kWidth>(table + id * hidden + i) : no_row<T, kWidth>();
      write_pack<kWidth>(y + row * hidden + i, value, mode);
    });
  });
}

// One pack of columns of one bag.
template <class T, int kWidth>
struct Bag {
  Index columns, vocabulary;
  const std::int32_t *ids, *offsets;
  double scale;
  const T* table;
  T* y;
  template <int>
  __device__ void at(Index item) const {
    const Index packs = columns / kWidth, bag = item / packs, column = item % packs * kWidth;
    const std::int32_t begin = offsets[bag], end = offsets[bag + 1];
    Pack<T, kWidth> sum{};
    for (std::int32_t i = begin; i < end; ++i) {
      const Index id = ids[i];
      const auto value =
          id >= 0 && id < vocabulary ? load<kWidth>(table + id * columns + column) : no_row<T, kWidth>();
      for (int j = 0; j < kWidth; ++j) sum.at[j] += value.at[j];
    }
    const T factor = begin < end ? static_cast<T>(scale / std::sqrt(static_cast<double>(end - begin))) : T(0);
    for (int j = 0; j < kWidth; ++j) sum.at[j] *= factor;
    store<kWidth>(y + bag * columns + column, sum);
  }
};

// Each id's bag, and each bag's factor, for the backward pass.
template <class T>
struct SpreadBags {
  const std::int32_t* offsets;
  double scale;
  std::int32_t* bag_of;
  T* factors;
  template <int>
  __device__ void at(Index bag) const {
    const std::int32_t begin = offsets[bag], end = offsets[bag + 1];
    factors[bag] = static_cast<T>(scale / std::sqrt(static_cast<double>(end - begin)));
    for (std::int32_t i = begin; i < end; ++i) bag_of[i] = static_cast<std::int32_t>(bag);
  }
};

constexpr int kAhead = 8;  // gradients fetched at once

// dtable[key] += the gradients of the items with that key, in order. A warp handles one place in the sorted
// items: if a run of equal keys begins there, it adds the run to kWarp packs of the key's row. If `bag_of`
// and `factors` are null, item i is row i of dy, and its factor is 1.
template <class T, int kWidth>
__global__ void __launch_bounds__(kBlock)
    add_runs_kernel(Index count, Index columns, Index vocabulary, SortedItems sorted,
                    const std::int32_t* bag_of, const T* factors, const T* dy, T* dtable) {
  const Index column = (Index{blockIdx.y} * kWarp + threadIdx.x) * kWidth;
  if (column >= columns) return;
  for_team_rows(count, [&](Index place) {
    const std::int32_t key = sorted.keys[place];
    if (key >= vocabulary || (place > 0 && sorted.keys[place - 1] == key)) return;
    T* to = dtable + key * columns + column;
    Pack<T, kWidth> sum = load<kWidth>(to);
    const Index end = first_not_below(sorted.keys, count, key + 1);
    while (place < end) {
      // Fetches several gradients at a time; one by one, a long run would wait for memory each time.
      const int ahead = end - place < kAhead ? static_cast<int>(end - place) : kAhead;
      Pack<T, kWidth> values[kAhead];
      T factor[kAhead];
      for (int a = 0; a < kAhead; ++a) {
        const Index item = sorted.items[place + (a < ahead ? a : 0)], row = bag_of ? bag_of[item] : item;
        values[a] = load<kWidth>(dy + row * columns + column);
        factor[a] = factors ? factors[row] : T(1);
      }
      for (int a = 0; a < kAhead; ++a)
        if (a < ahead)
          for (int j = 0; j < kWidth; ++j) sum.at[j] += factor[a] * values[a].at[j];
      place += ahead;
    }
    store<kWidth>(to, sum);
  });
}

template <class T>
void add_by_id(const char* operation, const Tensor& dy, const Tensor& ids, const std::int32_t* bag_of,
               const T* factors, const Tensor& dtable, conclave::cuda::Scratch& scratch) {
  const Index count = ids.numel(), vocabulary = dtable.size(0), columns = dtable.size(1);
  if (count == 0 || columns == 0) return;
  const SortedItems sorted =
      sort_items(operation, ids.data<std::int32_t>(), count, static_cast<std::int32_t>(vocabulary), scratch);
  for_width<T>(columns, {dy.raw(), dtable.raw()}, [&]<int kWidth>() {
    LaunchShape shape = team_shape<kWarp>(count);
    shape.grid.y = static_cast<unsigned>((columns + kWarp * kWidth - 1) / (kWarp * kWidth));
    launch(operation, add_runs_kernel<T, kWidth>, shape, count, columns, vocabulary, sorted, bag_of, factors,
           dy.data<T>(), dtable.data<T>());
  });
}

}  // namespace

void embedding(const Tensor& ids, const Tensor& table, const Tensor& y, Write write) {
  const Index rows = ids.numel(), vocabulary = table.size(0), hidden = table.size(1);
  if (rows == 0) return;
  for_floating(table.dtype(), "embedding", [&]<class T>(T) {
    for_team<T>(hidden, {table.raw(), y.raw()}, [&]<int kWidth, int kTeam>() {
      launch("embedding", embedding_kernel<T, kWidth, kTeam>, team_shape<kTeam>(rows), rows, hidden,
             vocabulary, ids.data<std::int32_t>(), table.data<T>(), y.data<T>(), write);
    });
  });
}

void embedding_backward(const Tensor& dy, const Tensor& ids, const Tensor& dtable) {
  for_floating(dtable.dtype(), "embedding backward", [&]<class T>(T) {
    conclave::cuda::Scratch scratch;
    add_by_id<T>("embedding backward", dy, ids, nullptr, nullptr, dtable, scratch);
  });
}

void embedding_bag(const Tensor& ids, const Tensor& offsets, double scale, const Tensor& table,
                   const Tensor& y) {
  const Index columns = table.size(1);
  for_floating(table.dtype(), "embedding_bag", [&]<class T>(T) {
    for_width<T>(columns, {table.raw(), y.raw()}, [&]<int kWidth>() {
      for_items("embedding_bag", y.numel() / kWidth,
                Bag<T, kWidth>{columns, table.size(0), ids.data<std::int32_t>(), offsets.data<std::int32_t>(),
                               scale, table.data<T>(), y.data<T>()});
    });
  });
}

void embedding_bag_backward(const Tensor& dy, const Tensor& ids, const Tensor& offsets, double scale,
                            const Tensor& dtable) {
  const Index bags = offsets.numel() - 1;
  for_floating(dtable.dtype(), "embedding_bag backward", [&]<class T>(T) {
    conclave::cuda::Scratch scratch;
    std::int32_t* bag_of = scratch.array<std::int32_t>(ids.numel());
    T* factors = scratch.array<T>(bags);
    for_items("embedding_bag backward", bags,
              SpreadBags<T>{offsets.data<std::int32_t>(), scale, bag_of, factors});
    add_by_id<T>("embedding_bag backward", dy, ids, bag_of, factors, dtable, scratch);
  });
}

}  // namespace conclave::kernels::cuda
