// The emulated device itself: that kernels compute on it what they say, and that it sees the mistakes planted
// here.
#include "tests/cuda_emulator/emulator.h"

#include <catch2/catch.hpp>

#include <numeric>
#include <random>
#include <vector>

#include "core/cuda/launch.h"
#include "core/cuda/memory.h"
#include "core/cuda/shared_memory.h"
#include "core/cuda/stream.h"

namespace conclave {
namespace {

using Catch::Contains;
using cuda::launch;
using cuda::LaunchShape;

void wait() { cuda::check(cudaStreamSynchronize(nullptr), "waiting"); }

Tensor ramp(Index count) {
  Tensor values = Tensor::empty({count});
  std::iota(values.data<float>(), values.data<float>() + count, 1.0f);
  return values;
}

// ---- What works
// ------------------------------------------------------------------------------------------------

// A block sums a row by warp shuffles, then through shared memory.
__global__ void row_sums(const float* x, float* sums, int columns) {
  __shared__ float of_warps[32];
  float sum = 0;
  for (unsigned i = threadIdx.x; i < static_cast<unsigned>(columns); i += blockDim.x)
    sum += x[blockIdx.x * static_cast<unsigned>(columns) + i];
  for (int distance = 16; distance > 0; distance /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, distance);
  if (threadIdx.x % 32 == 0) of_warps[threadIdx.x / 32] = sum;
  __syncthreads();
  if (threadIdx.x != 0) return;
  for (unsigned warp = 1; warp < blockDim.x / 32; ++warp) sum += of_warps[warp];
  sums[blockIdx.x] = sum;
}

TEST_CASE("a reduction by shuffles and shared memory", "[emulator]") {
  const Tensor x = cuda::to_device(ramp(7 * 100)), sums = cuda::empty_on_device({7});
  launch("row sums", row_sums, {.grid = dim3(7), .block = dim3(96)}, x.data<float>(), sums.data<float>(),
         100);
  const Tensor result = cuda::to_host(sums);
  for (Index row = 0; row < 7; ++row)
    CHECK(result.data<float>()[row] == 100 * (100 * static_cast<float>(row) + 50.5f));
}

// Tiles in shared memory; the missing barrier is the planted mistake.
constexpr int kTile = 8;
template <bool kBarrier>
__global__ void tiled_product(const float* a, const float* b, float* c, int n) {
  float* const tiles = cuda::shared_memory<float>();
  float *const of_a = tiles, *const of_b = tiles + kTile * kTile;
  const int x = static_cast<int>(threadIdx.x), y = static_cast<int>(threadIdx.y);
  const int row = static_cast<int>(blockIdx.y) * kTile + y, column = static_cast<int>(blockIdx.x) * kTile + x;
  float sum = 0;
  for (int k = 0; k < n; k += kTile) {
    of_a[y * kTile + x] = row < n && k + x < n ? a[row * n + k + x] : 0;
    of_b[y * kTile + x] = column < n && k + y < n ? b[(k + y) * n + column] : 0;
    if (kBarrier) __syncthreads();
    for (int i = 0; i < kTile; ++i) sum += of_a[y * kTile + i] * of_b[i * kTile + x];
    __syncthreads();
  }
  if (row < n && column < n) c[row * n + column] = sum;
}

TEST_CASE("a product by tiles, and what it gives without one of its barriers", "[emulator]") {
  constexpr int kN = 21;
  const Tensor host = ramp(kN * kN), a = cuda::to_device(host), c = cuda::empty_on_device({kN, kN});
  const auto worst = [&](auto kernel) {
    launch(
        "product", kernel,
        {.grid = dim3(3, 3), .block = dim3(kTile, kTile), .shared_bytes = 2 * kTile * kTile * sizeof(float)},
        a.data<float>(), a.data<float>(), c.data<float>(), kN);
    const Tensor result = cuda::to_host(c);
    double worst = 0;
    for (int row = 0; row < kN; ++row)
      for (int column = 0; column < kN; ++column) {
        double sum = 0;
        for (int i = 0; i < kN; ++i)
          sum += static_cast<double>(host.data<float>()[row * kN + i]) * host.data<float>()[i * kN + column];
        const double off = std::abs(result.data<float>()[row * kN + column] - sum) / sum;
        worst = std::isnan(off) ? 1 : std::max(worst, off);
      }
    return worst;
  };
  for (const std::uint64_t seed : {1, 2, 3}) {
    emulator::set_seed(seed);
    CHECK(worst(tiled_product<true>) < 1e-5);
    CHECK(worst(tiled_product<false>) > 1e-3);
  }
}

// Two sums over a block, one after the other, in the same shared memory.
template <bool kBarrier>
__global__ void two_sums(int* out) {
  __shared__ int of_warps[8];
  int sum = 1;
  for (int round = 0; round < 2; ++round) {
    for (int distance = 16; distance > 0; distance /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, distance);
    if (kBarrier) __syncthreads();  // until all have read the sums before
    if (threadIdx.x % 32 == 0) of_warps[threadIdx.x / 32] = sum;
    __syncthreads();
    sum = 0;
    for (const int of_warp : of_warps) sum += of_warp;
  }
  out[threadIdx.x] = sum;
}

TEST_CASE("a warp that writes what a slower one still has to read", "[emulator]") {
  const Tensor out = cuda::empty_on_device({256}, DType::i32);
  const auto right = [&](auto kernel) {
    launch("sums", kernel, {.grid = dim3(1), .block = dim3(256)}, out.data<std::int32_t>());
    const Tensor result = cuda::to_host(out);
    const auto sums = result.span<std::int32_t>();
    return std::all_of(sums.begin(), sums.end(), [](std::int32_t sum) { return sum == 256 * 256; });
  };
  int wrong = 0;
  for (std::uint64_t seed = 1; seed <= 20; ++seed) {
    emulator::set_seed(seed);
    CHECK(right(two_sums<true>));
    wrong += !right(two_sums<false>);
  }
  CHECK(wrong >= 10);
}

__global__ void histogram(const int* values, int count, int* counts, int bins) {
  int* const mine = cuda::shared_memory<int>();
  for (unsigned bin = threadIdx.x; bin < static_cast<unsigned>(bins); bin += blockDim.x) mine[bin] = 0;
  __syncthreads();
  for (unsigned i = blockIdx.x * blockDim.x + threadIdx.x; i < static_cast<unsigned>(count);
       i += gridDim.x * blockDim.x)
    atomicAdd(&mine[values[i]], 1);
  __syncthreads();
  for (unsigned bin = threadIdx.x; bin < static_cast<unsigned>(bins); bin += blockDim.x)
    atomicAdd(&counts[bin], mine[bin]);
}

TEST_CASE("a histogram by atomics", "[emulator]") {
  constexpr int kCount = 1000, kBins = 10;
  Tensor values = Tensor::empty({kCount}, DType::i32);
  std::vector<int> expected(kBins);
  for (int i = 0; i < kCount; ++i)
    ++expected[static_cast<std::size_t>(values.data<std::int32_t>()[i] = i * i % kBins)];
  const Tensor on_device = cuda::to_device(values), counts = cuda::empty_on_device({kBins}, DType::i32);
  cuda::check(cudaMemsetAsync(counts.raw(), 0, counts.bytes(), nullptr), "zeros");
  launch("histogram", histogram, {.grid = dim3(4), .block = dim3(64), .shared_bytes = kBins * sizeof(int)},
         on_device.data<std::int32_t>(), kCount, counts.data<std::int32_t>(), kBins);
  const Tensor result = cuda::to_host(counts);
  CHECK(std::vector<int>(result.data<std::int32_t>(), result.data<std::int32_t>() + kBins) == expected);
}

__global__ void ballots(unsigned* out) {
  const unsigned odd = __ballot_sync(0xffffffffu, threadIdx.x % 2);
  const int above = __shfl_up_sync(0xffffffffu, static_cast<int>(threadIdx.x), 1),
            below = threadIdx.x < 32 ? __shfl_down_sync(0xffffffffu, static_cast<int>(threadIdx.x), 4) : 0,
            seventh = __shfl_sync(0xffffffffu, static_cast<int>(threadIdx.x), 7);
  const int many = __syncthreads_count(threadIdx.x < 5);
  unsigned* const mine = out + 5 * threadIdx.x;
  mine[0] = odd;
  mine[1] = static_cast<unsigned>(above);
  mine[2] = static_cast<unsigned>(below);
  mine[3] = static_cast<unsigned>(seventh);
  mine[4] = static_cast<unsigned>(many);
}

TEST_CASE("ballots, shuffles and counting barriers, also of a warp that is not full", "[emulator]") {
  const Tensor out = cuda::empty_on_device({5 * 40}, DType::i32);
  launch("ballots", ballots, {.grid = dim3(1), .block = dim3(40)}, static_cast<unsigned*>(out.raw()));
  const Tensor result = cuda::to_host(out);
  const auto at = [&](int thread, int which) { return result.data<std::int32_t>()[5 * thread + which]; };
  CHECK(static_cast<unsigned>(at(3, 0)) == 0xaaaaaaaau);
  CHECK(at(35, 0) == 0xaa);
  CHECK(at(0, 1) == 0);
  CHECK(at(9, 1) == 8);
  CHECK(at(3, 2) == 7);
  CHECK(at(30, 2) == 30);
  CHECK(at(20, 3) == 7);
  CHECK(at(33, 3) == 39);
  CHECK(at(12, 4) == 5);
}

// ---- Planted mistakes
// ------------------------------------------------------------------------------------------

// The kernel fails, and says what is in `says`; afterwards the device works again.
template <class... Arguments>
void fails(const char* says, void (*kernel)(Arguments...), LaunchShape shape, Arguments... arguments) {
  launch("planted", kernel, shape, arguments...);
  CHECK_THROWS_WITH(wait(), Contains(says));
  CHECK_THAT(emulator::take_report(), Contains(says));
  CHECK_NOTHROW(wait());
}

__global__ void barrier_for_some() {
  if (threadIdx.x < 3) __syncthreads();
}
__global__ void shuffle_with_an_absent_lane(int* out) {
  if (threadIdx.x == 9) return;
  out[threadIdx.x] = __shfl_xor_sync(0xffffffffu, static_cast<int>(threadIdx.x), 1);
}
__global__ void shuffle_from_outside_the_mask(int* out) {
  if (threadIdx.x < 4) out[threadIdx.x] = __shfl_sync(0xfu, static_cast<int>(threadIdx.x), 20);
}
__global__ void without_myself() { __syncwarp(1); }
__global__ void two_operations_of_one_mask() {
  if (threadIdx.x % 2)
    __syncwarp();
  else
    __ballot_sync(0xffffffffu, 1);
}
__global__ void set(float* out, float value) { *out = value; }

TEST_CASE("threads that wait for others in vain", "[emulator]") {
  const Tensor out = cuda::empty_on_device({32}, DType::i32);
  fails("__syncthreads, which others did not reach", barrier_for_some, {.grid = dim3(2), .block = dim3(32)});
  fails("lanes of its mask did not reach", shuffle_with_an_absent_lane, {.grid = dim3(1), .block = dim3(32)},
        out.data<std::int32_t>());
  fails("reads lane 20, which takes no part", shuffle_from_outside_the_mask,
        {.grid = dim3(1), .block = dim3(32)}, out.data<std::int32_t>());
  fails("lacks the lane itself", without_myself, {.grid = dim3(1), .block = dim3(32)});
  fails("different operations of a warp", two_operations_of_one_mask, {.grid = dim3(1), .block = dim3(32)});
}

#ifndef __SANITIZE_ADDRESS__  // which ends the process where that happens
__global__ void one_too_far(float* out, int count) {
  if (threadIdx.x <= static_cast<unsigned>(count)) out[threadIdx.x] = 1;
}

TEST_CASE("a kernel that writes behind its memory", "[emulator]") {
  const Tensor out = cuda::empty_on_device({13});
  fails("written outside of 52 bytes", one_too_far, {.grid = dim3(1), .block = dim3(32)}, out.data<float>(),
        13);
}
#endif

TEST_CASE("memory that nobody wrote, or that was given back", "[emulator]") {
  const Tensor never = cuda::to_host(cuda::empty_on_device({3}));
  for (Index i = 0; i < 3; ++i) CHECK(std::isnan(never.data<float>()[i]));
  void* memory = nullptr;
  REQUIRE(cudaMalloc(&memory, 16) == cudaSuccess);
  const std::size_t live = emulator::counters().live;
  REQUIRE(cudaFree(memory) == cudaSuccess);
  CHECK(emulator::counters().live == live - 1);
  CHECK(cudaMemsetAsync(memory, 0, 16, nullptr) == cudaErrorLaunchFailure);
  CHECK_THAT(emulator::take_report(), Contains("given back"));
  CHECK(cudaFree(memory) == cudaErrorLaunchFailure);
  CHECK_THAT(emulator::take_report(), Contains("given back before"));
  int host = 0;
  CHECK(cudaMemsetAsync(&host, 0, sizeof host, nullptr) == cudaErrorLaunchFailure);
  CHECK_THAT(emulator::take_report(), Contains("not device memory"));
  const Tensor small = cuda::empty_on_device({4});
  float five[5] = {};
  CHECK(cudaMemcpy(small.raw(), five, sizeof five, cudaMemcpyHostToDevice) == cudaErrorLaunchFailure);
  CHECK_THAT(emulator::take_report(), Contains("20 bytes at offset 0 of 16"));
}

TEST_CASE("a host that does not wait", "[emulator]") {
  Tensor host = ramp(4);
  const Tensor device = cuda::empty_on_device({4});
  cuda::copy(host, device);
  host.data<float>()[2] = 7;
  CHECK_THROWS_WITH(wait(), Contains("changed before it had been copied"));
  emulator::take_report();

  const Tensor good = cuda::to_device(ramp(4));
  cuda::copy(good, host);
  CHECK(std::isnan(host.data<float>()[0]));  // too early
  wait();
  CHECK(host.data<float>()[0] == 1);
}

TEST_CASE("a stream that does not wait for another", "[emulator]") {
  const Tensor value = cuda::empty_on_device({1});
  const cuda::Stream producer, consumer;
  const auto seen = [&](bool waits) {
    const Tensor result = Tensor::empty({1});
    cuda::check(cudaMemsetAsync(value.raw(), 0, value.bytes(), consumer.handle()), "zero");
    consumer.synchronize();
    const cuda::Event written;
    {
      const cuda::StreamScope scope(producer);
      launch("set", set, {.grid = dim3(1), .block = dim3(1)}, value.data<float>(), 5.0f);
      written.record(cuda::current_stream());
    }
    if (waits) consumer.wait_for(written);
    {
      const cuda::StreamScope scope(consumer);
      cuda::copy(value, result);
    }
    consumer.synchronize();
    producer.synchronize();
    return result.data<float>()[0];
  };
  CHECK(seen(true) == 5);
  CHECK(seen(false) == 0);

  const cuda::Event event;
  launch("set", set, {.grid = dim3(1), .block = dim3(1)}, value.data<float>(), 6.0f);
  event.record(nullptr);
  CHECK_FALSE(event.passed());
  int asked = 1;
  for (; !event.passed(); ++asked) REQUIRE(asked < 10);
  CHECK(cuda::to_host(value).data<float>()[0] == 6);
}

TEST_CASE("launches that no device takes, and memory it does not have", "[emulator]") {
  const auto refused = [](dim3 grid, dim3 block, std::size_t shared) {
    CHECK_THROWS_WITH(
        launch("planted", barrier_for_some, {.grid = grid, .block = block, .shared_bytes = shared}),
        Contains("planted: CUDA says: invalid configuration"));
  };
  refused(dim3(1), dim3(1025), 0);
  refused(dim3(0), dim3(32), 0);
  refused(dim3(1, 65536), dim3(32), 0);
  refused(dim3(1), dim3(1, 1, 65), 0);
  refused(dim3(1), dim3(32), (48 << 10) + 1);

  emulator::set_memory(std::size_t{1} << 30);
  CHECK_THROWS_WITH(cuda::DeviceMemory(std::size_t{2} << 30), Contains("2.0 GiB are needed"));
  emulator::set_memory(std::size_t{4} << 30);
}

}  // namespace
}  // namespace conclave
