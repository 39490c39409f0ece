// The range of a row's values, found by a team. For .cu files.
#pragma once

#include "core/kernels/cuda_kernel.h"

namespace conclave::kernels::cuda {

/// Widens [low, high], which is the same in all threads, to include the values of the row.
template <int kWidth, int kTeam, class T>
__device__ void widen_to_row(const T* row, Index columns, T& low, T& high) {
  for_columns<kWidth, kTeam>(columns, [&](Index i) {
    const Pack<T, kWidth> value = load<kWidth>(row + i);
    for (int j = 0; j < kWidth; ++j) {
      low = value.at[j] < low ? value.at[j] : low;
      high = value.at[j] > high ? value.at[j] : high;
    }
  });
  low = -team_max<kTeam>(-low);
  high = team_max<kTeam>(high);
}

}  // namespace conclave::kernels::cuda
