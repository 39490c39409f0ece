// The basis of every CUDA kernel, as kernel.h is for the CPU's: teams of threads for rows, loops over flat
// arrays, 16-byte accesses. For .cu files.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <initializer_list>

#include "core/cuda/launch.h"
#include "core/kernels/kernel.h"

namespace conclave::kernels::cuda {

using conclave::cuda::launch;
using conclave::cuda::LaunchShape;

inline constexpr int kWarp = 32;
inline constexpr int kBlock = 256;  ///< threads per block, in all kernels except a few that say why not
/// The most blocks of a launch; kernels loop over what is left. So many fill every current device several
/// times.
inline constexpr Index kMaxBlocks = 2048;
/// A row longer than this is worth a block of its own: 8 packs of f32 for each thread of a warp.
inline constexpr Index kLongRow = 1024;

/// The number of blocks for `items` threads or teams, `per_block` of them in each.
inline unsigned blocks_for(Index items, Index per_block) {
  return static_cast<unsigned>(std::min((items + per_block - 1) / per_block, kMaxBlocks));
}

/// kWidth adjacent elements, loaded and stored by one instruction.
template <class T, int kWidth>
struct alignas(sizeof(T) * kWidth) Pack {
  T at[kWidth];
};
/// Elements of a 16-byte access, the widest one.
template <class T>
inline constexpr int kPackWidth = 16 / static_cast<int>(sizeof(T));

template <int kWidth, class T>
__device__ Pack<T, kWidth> load(const T* from) {
  return *reinterpret_cast<const Pack<T, kWidth>*>(from);
}

template <int kWidth, class T>
__device__ void store(T* to, const Pack<T, kWidth>& values) {
  *reinterpret_cast<Pack<T, kWidth>*>(to) = values;
}

/// write() for a pack.
template <int kWidth, class T>
__device__ void write_pack(T* to, Pack<T, kWidth> values, Write mode) {
  if (mode == Write::accumulate) {
    const Pack<T, kWidth> before = load<kWidth>(to);
    for (int j = 0; j < kWidth; ++j) values.at[j] = before.at[j] + values.at[j];
  }
  store<kWidth>(to, values);
}

/// Marks a result whose operand was invalid. The CPU kernel throws Error instead, because it can check
/// operands first.
template <class T>
__device__ T not_a_number() {
  return static_cast<T>(__builtin_nanf(""));
}

inline bool aligned(std::initializer_list<const void*> arrays) {
  return std::all_of(arrays.begin(), arrays.end(),
                     [](const void* array) { return reinterpret_cast<std::uintptr_t>(array) % 16 == 0; });
}

// Reductions within a team. Every thread of the warp or block takes part and gets the result. The bits of the
// result do not depend on the order in which threads run.

template <class T, class Combine>
__device__ T warp_reduce(T value, Combine combine) {
  for (int distance = kWarp / 2; distance > 0; distance /= 2)
    value = combine(value, __shfl_xor_sync(0xffffffffu, value, distance));
  return value;
}

/// kTeam: kWarp for a team of one warp, kBlock for the whole block.
template <int kTeam, class T, class Combine>
__device__ T team_reduce(T value, Combine combine) {
  value = warp_reduce(value, combine);
  if constexpr (kTeam > kWarp) {
    __shared__ T of_warps[kTeam / kWarp];
    __syncthreads();  // all threads have read the values of the previous reduction
    if (threadIdx.x % kWarp == 0) of_warps[threadIdx.x / kWarp] = value;
    __syncthreads();
    value = of_warps[0];
    for (int warp = 1; warp < kTeam / kWarp; ++warp) value = combine(value, of_warps[warp]);
  }
  return value;
}

template <int kTeam, class T>
__device__ T team_sum(T value) {
  return team_reduce<kTeam>(value, [](T a, T b) { return a + b; });
}

template <int kTeam, class T>
__device__ T team_max(T value) {
  return team_reduce<kTeam>(value, [](T a, T b) { return a < b ? b : a; });
}

/// Calls body(row) for this team's rows among `rows` rows; blocks are [kTeam, kBlock / kTeam].
template <class Body>
__device__ void for_team_rows(Index rows, Body body) {
  const Index step = Index{gridDim.x} * blockDim.y;
  for (Index row = Index{blockIdx.x} * blockDim.y + threadIdx.y; row < rows; row += step) body(row);
}

/// Calls body(i) for this thread's packs [i, i + kWidth) in a row of `columns` elements.
template <int kWidth, int kTeam, class Body>
__device__ void for_columns(Index columns, Body body) {
  for (Index i = Index{threadIdx.x} * kWidth; i < columns; i += kTeam * kWidth) body(i);
}

/// The launch shape for `rows` rows (at least one), a team for each.
template <int kTeam>
LaunchShape team_shape(Index rows) {
  constexpr unsigned kTeams = kBlock / kTeam;
  return {.grid = dim3(blocks_for(rows, kTeams)), .block = dim3(kTeam, kTeams)};
}

/// Calls body.operator()<kWidth, kTeam>() with the width and the team that suit rows of `columns` elements in
/// these arrays. A row of at most `warps_row` elements gets a warp, a longer row a block.
template <class T, class Body>
void for_team(Index columns, std::initializer_list<const void*> arrays, Body body,
              Index warps_row = kLongRow) {
  constexpr int kPack = kPackWidth<T>;
  if (columns % kPack == 0 && aligned(arrays)) {
    if (columns > warps_row)
      body.template operator()<kPack, kBlock>();
    else
      body.template operator()<kPack, kWarp>();
  } else {
    if (columns > warps_row)
      body.template operator()<1, kBlock>();
    else
      body.template operator()<1, kWarp>();
  }
}

template <int kWidth, class Body>
__global__ void __launch_bounds__(kBlock) flat_kernel(Index total, Body body) {
  const Index step = Index{gridDim.x} * blockDim.x, first = Index{blockIdx.x} * blockDim.x + threadIdx.x;
  const Index packs = total / kWidth;
  for (Index pack = first; pack < packs; pack += step) body.template at<kWidth>(pack * kWidth);
  if constexpr (kWidth > 1)
    for (Index i = packs * kWidth + first; i < total; i += step) body.template at<1>(i);
}

/// Calls body.at<kWidth>(i) for the elements [i, i + kWidth) of flat arrays, until all `total` are covered.
/// `arrays` are the arrays' addresses: packs are used only if all are aligned.
template <class T, class Body>
void for_flat(const char* operation, Index total, std::initializer_list<const void*> arrays,
              const Body& body) {
  if (total == 0) return;
  constexpr int kPack = kPackWidth<T>;
  if (aligned(arrays))
    launch(operation, flat_kernel<kPack, Body>,
           {.grid = dim3(blocks_for((total + kPack - 1) / kPack, kBlock)), .block = dim3(kBlock)}, total,
           body);
  else
    launch(operation, flat_kernel<1, Body>, {.grid = dim3(blocks_for(total, kBlock)), .block = dim3(kBlock)},
           total, body);
}

/// Calls body.at<1>(item) for each of `items` items: for_flat() for items that are not single elements.
template <class Body>
void for_items(const char* operation, Index items, const Body& body) {
  if (items == 0) return;
  launch(operation, flat_kernel<1, Body>, {.grid = dim3(blocks_for(items, kBlock)), .block = dim3(kBlock)},
         items, body);
}

/// Calls body.operator()<kWidth>() with the width of a 16-byte pack if rows of `columns` elements consist of
/// whole packs and these arrays are aligned to them, else with width 1.
template <class T, class Body>
void for_width(Index columns, std::initializer_list<const void*> arrays, Body body) {
  if (columns % kPackWidth<T> == 0 && aligned(arrays))
    body.template operator()<kPackWidth<T>>();
  else
    body.template operator()<1>();
}

}  // namespace conclave::kernels::cuda
