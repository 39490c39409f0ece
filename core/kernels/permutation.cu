#include <vector>

#include "core/cuda/memory.h"
#include "core/cuda/scratch.h"
#include "core/cuda/shared_memory.h"
#include "core/cuda/upload.h"
#include "core/kernels/cuda_kernel.h"
#include "core/kernels/cuda_sort.h"
#include "core/kernels/permutation.h"
#include "core/kernels/row_finder.h"

namespace conclave::kernels::cuda {
namespace {

using conclave::cuda::check;
using conclave::cuda::current_stream;
using conclave::cuda::download;
using conclave::cuda::Scratch;
using conclave::cuda::shared_memory;
using conclave::cuda::upload;

constexpr Index kSharedExperts = 8192;  // whose counts fit the shared memory that any kernel may have

// counts[e] += how often e occurs, counts[number] += how many are no experts; sums of integers are the same
// in any order. With `shared`, a block first counts in its shared memory.
__global__ void __launch_bounds__(kBlock) count_experts_kernel(const std::int32_t* experts, Index total,
                                                               Index number, bool shared, unsigned* counts) {
  unsigned* here = shared ? shared_memory<unsigned>() : counts;
  if (shared) {
    for (Index e = threadIdx.x; e <= number; e += kBlock) here[e] = 0;
    __syncthreads();
  }
  for (Index i = Index{blockIdx.x} * kBlock + threadIdx.x; i < total; i += Index{gridDim.x} * kBlock) {
    const Index expert = experts[i];
    if (expert != -1) atomicAdd(here + (expert >= 0 && expert < number ? expert : number), 1u);
  }
  if (!shared) return;
  __syncthreads();
  for (Index e = threadIdx.x; e <= number; e += kBlock)
    if (here[e] > 0) atomicAdd(counts + e, here[e]);
}

// The slot of the choice at one place in the sorted order; first[e] is where the choices of expert e begin.
struct AssignSlots {
  SortedItems sorted;
  std::int32_t number;
  const SlotRange* ranges;
  const std::int32_t* first;
  std::int32_t* slots;
  template <int>
  __device__ void at(Index place) const {
    const std::int32_t expert = sorted.keys[place];
    std::int32_t slot = -1;
    if (expert < number) {
      const SlotRange& range = ranges[expert];
      const Index row = place - first[expert] - range.skip;
      if (row >= 0 && row < range.rows) slot = static_cast<std::int32_t>(range.first + row);
    }
    slots[sorted.items[place]] = slot;
  }
};

struct FindFirst {
  const std::int32_t* keys;
  Index count;
  std::int32_t* first;
  template <int>
  __device__ void at(Index expert) const {
    first[expert] =
        static_cast<std::int32_t>(first_not_below(keys, count, static_cast<std::int32_t>(expert)));
  }
};

// An address with the alignment that all parts have in common.
const void* common_address(RowParts rows) {
  std::uintptr_t bits = 0;
  for (const Tensor& part : rows) bits |= reinterpret_cast<std::uintptr_t>(part.raw());
  return reinterpret_cast<const void*>(bits);
}

template <class T, int kWidth, int kTeam>
__global__ void __launch_bounds__(kBlock) gather_rows_kernel(Index tokens, Index hidden, Index k, const T* x,
                                                             const std::int32_t* slots, RowFinder<T> rows) {
  for_team_rows(tokens, [&](Index token) {
    for_columns<kWidth, kTeam>(hidden, [&](Index i) {
      const Pack<T, kWidth> value = load<kWidth>(x + token * hidden + i);
      for (Index j = 0; j < k; ++j) {
        const std::int32_t slot = slots[token * k + j];
        if (slot >= 0) store<kWidth>(rows(slot) + i, value);
      }
    });
  });
}

template <class T, int kWidth, int kTeam>
__global__ void __launch_bounds__(kBlock)
    combine_rows_kernel(Index tokens, Index hidden, Index k, RowFinder<T> rows, const std::int32_t* slots,
                        const T* weights, T* y, Write mode) {
  for_team_rows(tokens, [&](Index token) {
    for_columns<kWidth, kTeam>(hidden, [&](Index i) {
      T* to = y + token * hidden + i;
      Pack<T, kWidth> sum{};
      if (mode == Write::accumulate) sum = load<kWidth>(to);
      for (Index j = 0; j < k; ++j) {
        const std::int32_t slot = slots[token * k + j];
        if (slot < 0) continue;
        const T weight = weights ? weights[token * k + j] : T(1);
        const Pack<T, kWidth> value = load<kWidth>(rows(slot) + i);
        for (int n = 0; n < kWidth; ++n) sum.at[n] += weight * value.at[n];
      }
      store<kWidth>(to, sum);
    });
  });
}

// `weights` and `dweights` may be null.
template <class T, int kWidth, int kTeam>
__global__ void __launch_bounds__(kBlock)
    combine_rows_backward_kernel(Index tokens, Index hidden, Index k, const T* dy, RowFinder<T> rows,
                                 const std::int32_t* slots, const T* weights, RowFinder<T> drows,
                                 T* dweights) {
  for_team_rows(tokens, [&](Index token) {
    for (Index j = 0; j < k; ++j) {
      const std::int32_t slot = slots[token * k + j];
      if (slot < 0) continue;
      const T weight = weights ? weights[token * k + j] : T(1);
      const T *up = dy + token * hidden, *row = rows(slot);
      T* to = drows(slot);
      T dot = 0;
      for_columns<kWidth, kTeam>(hidden, [&](Index i) {
        Pack<T, kWidth> value = load<kWidth>(up + i);
        if (dweights) {
          const Pack<T, kWidth> other = load<kWidth>(row + i);
          for (int n = 0; n < kWidth; ++n) dot += value.at[n] * other.at[n];
        }
        for (int n = 0; n < kWidth; ++n) value.at[n] *= weight;
        store<kWidth>(to + i, value);
      });
      if (!dweights) continue;
      dot = team_sum<kTeam>(dot);
      if (threadIdx.x == 0) dweights[token * k + j] = dot;
    }
  });
}

template <class T, int kWidth, int kTeam>
__global__ void __launch_bounds__(kBlock)
    concatenate_kernel(Index rows, Index m, Index n, const T* a, const T* b, T* y) {
  for_team_rows(rows, [&](Index row) {
    T* to = y + row * (m + n);
    for_columns<kWidth, kTeam>(m, [&](Index i) { store<kWidth>(to + i, load<kWidth>(a + row * m + i)); });
    for_columns<kWidth, kTeam>(n, [&](Index i) { store<kWidth>(to + m + i, load<kWidth>(b + row * n + i)); });
  });
}

template <class T, int kWidth, int kTeam>
__global__ void __launch_bounds__(kBlock)
    take_columns_kernel(Index rows, Index width, Index first, Index n, const T* y, T* x, Write mode) {
  for_team_rows(rows, [&](Index row) {
    for_columns<kWidth, kTeam>(n, [&](Index i) {
      write_pack<kWidth>(x + row * n + i, load<kWidth>(y + row * width + first + i), mode);
    });
  });
}

}  // namespace

void count_experts(const Tensor& experts, std::span<Index> counts) {
  constexpr const char* kOperation = "count_experts";
  thread_local std::vector<unsigned> on_host;  // kept, because a training step allocates nothing
  on_host.assign(counts.size() + 1, 0);
  const Index total = experts.numel(), number = static_cast<Index>(counts.size());
  if (total > 0) {
    Scratch scratch;
    unsigned* on_device = scratch.array<unsigned>(number + 1);
    check(cudaMemsetAsync(on_device, 0, on_host.size() * sizeof(unsigned), current_stream()), kOperation);
    const bool shared = number < kSharedExperts;
    launch(kOperation, count_experts_kernel,
           {.grid = dim3(blocks_for(total, kBlock)),
            .block = dim3(kBlock),
            .shared_bytes = shared ? on_host.size() * sizeof(unsigned) : 0},
           experts.data<std::int32_t>(), total, number, shared, on_device);
    download(kOperation, on_device, on_host.size() * sizeof(unsigned), on_host.data());
  }
  require(on_host.back() == 0, "{}: {} of {} choices name no expert; there are {} experts", kOperation,
          on_host.back(), total, number);
  std::copy(on_host.begin(), on_host.end() - 1, counts.begin());
}

void assign_slots(const Tensor& experts, std::span<SlotRange> ranges, const Tensor& slots) {
  const Index total = experts.numel(), number = static_cast<Index>(ranges.size());
  if (total == 0) return;
  Scratch scratch;
  auto* on_device = scratch.array<SlotRange>(number);
  upload("assign_slots", std::span<const SlotRange>(ranges), on_device);
  const SortedItems sorted = sort_items("assign_slots", experts.data<std::int32_t>(), total,
                                        static_cast<std::int32_t>(number), scratch);
  std::int32_t* first = scratch.array<std::int32_t>(number);
  for_items("assign_slots", number, FindFirst{sorted.keys, total, first});
  for_items(
      "assign_slots", total,
      AssignSlots{sorted, static_cast<std::int32_t>(number), on_device, first, slots.data<std::int32_t>()});
}

void gather_rows(const Tensor& x, const Tensor& slots, RowParts rows) {
  const Index tokens = x.size(0), hidden = x.size(1), k = slots.size(1);
  if (tokens == 0) return;
  for_floating(x.dtype(), "gather_rows", [&]<class T>(T) {
    for_team<T>(hidden, {x.raw(), common_address(rows)}, [&]<int kWidth, int kTeam>() {
      launch("gather_rows", gather_rows_kernel<T, kWidth, kTeam>, team_shape<kTeam>(tokens), tokens, hidden,
             k, x.data<T>(), slots.data<std::int32_t>(), RowFinder<T>(rows));
    });
  });
}

void combine_rows(RowParts rows, const Tensor& slots, const Tensor& weights, const Tensor& y, Write write) {
  const Index tokens = y.size(0), hidden = y.size(1), k = slots.size(1);
  if (tokens == 0) return;
  for_floating(y.dtype(), "combine_rows", [&]<class T>(T) {
    for_team<T>(hidden, {common_address(rows), y.raw()}, [&]<int kWidth, int kTeam>() {
      launch("combine_rows", combine_rows_kernel<T, kWidth, kTeam>, team_shape<kTeam>(tokens), tokens, hidden,
             k, RowFinder<T>(rows), slots.data<std::int32_t>(),
             weights.defined() ? weights.data<T>() : nullptr, y.data<T>(), write);
    });
  });
}

void combine_rows_backward(const Tensor& dy, RowParts rows, const Tensor& slots, const Tensor& weights,
                           RowParts drows, const Tensor& dweights) {
  const Index tokens = dy.size(0), hidden = dy.size(1), k = slots.size(1);
  if (tokens == 0) return;
  for_floating(dy.dtype(), "combine_rows backward", [&]<class T>(T) {
    for_team<T>(hidden, {dy.raw(), common_address(rows), common_address(drows)},
                [&]<int kWidth, int kTeam>() {
                  launch("combine_rows backward", combine_rows_backward_kernel<T, kWidth, kTeam>,
                         team_shape<kTeam>(tokens), tokens, hidden, k, dy.data<T>(), RowFinder<T>(rows),
                         slots.data<std::int32_t>(), weights.defined() ? weights.data<T>() : nullptr,
                         RowFinder<T>(drows), dweights.defined() ? dweights.data<T>() : nullptr);
                });
  });
}

void concatenate_columns(const Tensor& a, const Tensor& b, const Tensor& y) {
  const Index rows = y.size(0), m = a.size(1), n = b.size(1);
  if (rows == 0) return;
  for_floating(y.dtype(), "concatenate", [&]<class T>(T) {
    const Index widths = m | n;  // divisible by a pack's width, a power of two, if m and n are
    for_team<T>(widths, {a.raw(), b.raw(), y.raw()}, [&]<int kWidth, int kTeam>() {
      launch("concatenate", concatenate_kernel<T, kWidth, kTeam>, team_shape<kTeam>(rows), rows, m, n,
             a.data<T>(), b.data<T>(), y.data<T>());
    });
  });
}

void take_columns(const Tensor& y, Index first, const Tensor& x, Write write) {
  const Index rows = x.size(0), n = x.size(1), width = y.size(1);
  if (rows == 0) return;
  for_floating(y.dtype(), "take_columns", [&]<class T>(T) {
    const Index widths = width | first | n;  // as above
    for_team<T>(widths, {y.raw(), x.raw()}, [&]<int kWidth, int kTeam>() {
      launch("take_columns", take_columns_kernel<T, kWidth, kTeam>, team_shape<kTeam>(rows), rows, width,
             first, n, y.data<T>(), x.data<T>(), write);
    });
  });
}

}  // namespace conclave::kernels::cuda
