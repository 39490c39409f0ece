// Helpers for the tests of the emulated device.
#pragma once

#include <catch2/catch.hpp>

#include <numeric>

#include "core/cuda/launch.h"
#include "core/cuda/memory.h"
#include "core/cuda/shared_memory.h"
#include "core/cuda/stream.h"
#include "tests/cuda_emulator/emulator.h"

namespace conclave {

inline void wait() { cuda::check(cudaStreamSynchronize(nullptr), "waiting"); }

/// 1, 2, 3, ...
inline Tensor ramp(Index count) {
  Tensor values = Tensor::empty({count});
  std::iota(values.data<float>(), values.data<float>() + count, 1.0f);
  return values;
}

}  // namespace conclave
