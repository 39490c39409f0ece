// Flat loops over many elements.
#pragma once

#include <algorithm>

#include "core/kernels/kernel.h"

namespace conclave::kernels {

/// Calls body(begin, end) for all of [0, total), in pieces that stay in the first-level cache: 4096 elements,
/// 16 KiB of f32.
template <class Body>
void for_chunks(Index total, Body body) {
  constexpr Index kChunk = 4096;
#pragma omp parallel for schedule(static) if (total > kParallelElements)
  for (Index begin = 0; begin < total; begin += kChunk) body(begin, std::min(begin + kChunk, total));
}

}  // namespace conclave::kernels
