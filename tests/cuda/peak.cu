#include "tests/cuda/peak.h"

#include "core/cuda/launch.h"

namespace conclave::roofline {
namespace {

constexpr int kThreads = 256;
constexpr int kChains = 8;  // independent multiply-adds, which hide each other's latency

__global__ void __launch_bounds__(kThreads)
    multiply_add_kernel(Index rounds, float factor, float addend, float* out) {
  float x[kChains];
  for (int i = 0; i < kChains; ++i) x[i] = addend * static_cast<float>(i + static_cast<int>(threadIdx.x));
  for (Index round = 0; round < rounds; ++round)
#pragma unroll
    for (int i = 0; i < kChains; ++i) x[i] = x[i] * factor + addend;
  float sum = 0;
  for (int i = 0; i < kChains; ++i) sum += x[i];
  if (sum == -1.0f) *out = sum;  // never true, but the compiler cannot know that
}

}  // namespace

double multiply_adds(Index rounds, bool small, const Tensor& out) {
  const unsigned blocks = small ? 4 : 8192;
  // x -> 0.999 x + 0.001 stays near 1: no overflow
  cuda::launch("multiply-adds", multiply_add_kernel, {.grid = dim3(blocks), .block = dim3(kThreads)}, rounds,
               0.999f, 0.001f, out.data<float>());
  return 2.0 * kChains * kThreads * blocks * static_cast<double>(rounds);
}

}  // namespace conclave::roofline
