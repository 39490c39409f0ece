#include "core/kernels/cuda_sort.h"

#include <bit>

namespace conclave::kernels::cuda {
namespace {

// A radix sort, from the lowest digit up. Each block handles one stretch of the items: it counts their
// digits; from the counts of all blocks follow the places of each block's items of each digit; the block then
// moves its items to these places, in order.
constexpr int kBits = 8, kDigits = 1 << kBits;
constexpr Index kStretches = 128;  // at most: one thread block can still add up kStretches * kDigits counts
constexpr int kWarps = kBlock / kWarp;
constexpr int kScanThreads = 1024;
static_assert(kDigits == kBlock, "thread d of a block looks after digit d");

// Every pass clamps its keys. Only the first pass needs this; in later ones it changes nothing.
__device__ std::int32_t clamped(std::int32_t key, std::int32_t bound) {
  return key < 0 || key > bound ? bound : key;
}

// counts[digit, stretch]
__global__ void __launch_bounds__(kBlock)
    count_digits_kernel(const std::int32_t* keys, Index count, std::int32_t bound, int shift,
                        std::int32_t* counts) {
  __shared__ int of_digit[kDigits];
  of_digit[threadIdx.x] = 0;
  __syncthreads();
  const Index stretch = blockIdx.x, stretches = gridDim.x;
  for (Index i = count * stretch / stretches + threadIdx.x, end = count * (stretch + 1) / stretches; i < end;
       i += kBlock)
    atomicAdd(&of_digit[clamped(keys[i], bound) >> shift & (kDigits - 1)], 1);
  __syncthreads();
  counts[threadIdx.x * stretches + stretch] = of_digit[threadIdx.x];
}

// values[i] = the sum of all values before it; runs in one block.
__global__ void __launch_bounds__(kScanThreads) exclusive_sums_kernel(std::int32_t* values, int count) {
  __shared__ int of_warps[kScanThreads / kWarp];
  const int each = (count + kScanThreads - 1) / kScanThreads;
  const int begin = static_cast<int>(threadIdx.x) * each, end = begin + each < count ? begin + each : count;
  int sum = 0;
  for (int i = begin; i < end; ++i) sum += values[i];
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  int upto = sum;  // the sum of this warp's threads up to this one
  for (int distance = 1; distance < kWarp; distance *= 2) {
    const int below = __shfl_up_sync(0xffffffffu, upto, distance);
    if (lane >= distance) upto += below;
  }
  if (lane == kWarp - 1) of_warps[warp] = upto;
  __syncthreads();
  int before = upto - sum;
  for (int w = 0; w < warp; ++w) before += of_warps[w];
  for (int i = begin; i < end; ++i) {
    const int value = values[i];
    values[i] = before;
    before += value;
  }
}

// Moves the items of this block's stretch, kBlock at a time, to `places` [digit, stretch]. In the first pass,
// where `items` is null, items are their own numbers.
__global__ void __launch_bounds__(kBlock)
    place_items_kernel(const std::int32_t* keys, const std::int32_t* items, Index count, std::int32_t bound,
                       int shift, const std::int32_t* places, std::int32_t* placed_keys,
                       std::int32_t* placed_items) {
  __shared__ int next[kDigits];              // where this block's next item of a digit goes
  __shared__ int of_warps[kWarps][kDigits];  // first the items of a digit, then their places
  const Index stretch = blockIdx.x, stretches = gridDim.x;
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  next[threadIdx.x] = places[threadIdx.x * stretches + stretch];
  const Index end = count * (stretch + 1) / stretches;
  for (Index first = count * stretch / stretches; first < end; first += kBlock) {
    for (int w = 0; w < kWarps; ++w) of_warps[w][threadIdx.x] = 0;
    __syncthreads();
    const Index i = first + threadIdx.x;
    const bool present = i < end;
    const std::int32_t key = present ? clamped(keys[i], bound) : 0;
    const int digit = key >> shift & (kDigits - 1);
    // The lanes with items of the same digit: those that agree in presence and in every bit.
    unsigned peers = __ballot_sync(0xffffffffu, present);
    for (int bit = 0; bit < kBits; ++bit) {
      const bool set = digit >> bit & 1;
      const unsigned with = __ballot_sync(0xffffffffu, set);
      peers &= set ? with : ~with;
    }
    const int rank = __popc(peers & ((1u << lane) - 1));
    if (present && rank == 0) of_warps[warp][digit] = __popc(peers);
    __syncthreads();
    int place = next[threadIdx.x];
    for (int w = 0; w < kWarps; ++w) {
      const int here = of_warps[w][threadIdx.x];
      of_warps[w][threadIdx.x] = place;
      place += here;
    }
    next[threadIdx.x] = place;
    __syncthreads();
    if (present) {
      const int to = of_warps[warp][digit] + rank;
      placed_keys[to] = key;
      placed_items[to] = items ? items[i] : static_cast<std::int32_t>(i);
    }
    __syncthreads();  // all threads have read of_warps
  }
}

}  // namespace

SortedItems sort_items(const char* operation, const std::int32_t* keys, Index count, std::int32_t bound,
                       conclave::cuda::Scratch& scratch) {
  std::int32_t* keys_of[2] = {scratch.array<std::int32_t>(count), scratch.array<std::int32_t>(count)};
  std::int32_t* items_of[2] = {scratch.array<std::int32_t>(count), scratch.array<std::int32_t>(count)};
  const Index stretches = std::min(kStretches, (count + kBlock - 1) / kBlock);
  std::int32_t* counts = scratch.array<std::int32_t>(stretches * kDigits);
  const LaunchShape shape{.grid = dim3(static_cast<unsigned>(stretches)), .block = dim3(kBlock)};
  const std::int32_t* items = nullptr;
  if (count == 0) return {keys_of[0], items_of[0]};
  const int bits = std::max(1, static_cast<int>(std::bit_width(static_cast<std::uint32_t>(bound))));
  for (int shift = 0, to = 0; shift < bits; shift += kBits, to = 1 - to) {
    launch(operation, count_digits_kernel, shape, keys, count, bound, shift, counts);
    launch(operation, exclusive_sums_kernel, {.grid = dim3(1), .block = dim3(kScanThreads)}, counts,
           static_cast<int>(stretches * kDigits));
    launch(operation, place_items_kernel, shape, keys, items, count, bound, shift, counts, keys_of[to],
           items_of[to]);
    keys = keys_of[to];
    items = items_of[to];
  }
  return {keys, items};
}

}  // namespace conclave::kernels::cuda
