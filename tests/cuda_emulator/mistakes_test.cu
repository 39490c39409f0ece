// Planted mistakes. The emulated device detects each of them.
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <memory>
#include <string>

#include "core/cuda/graph.h"
#include "tests/cuda_emulator/trial.h"
#include "tests/cuda_emulator/trial_kernels.h"

namespace conclave {
namespace {

using Catch::Contains;
using cuda::launch;
using cuda::LaunchShape;

// Runs `body` in a child process that it should kill; returns the child's standard error, "" if it survives.
template <class Body>
std::string last_words(Body&& body) {
  std::array<int, 2> ends{};
  REQUIRE(pipe(ends.data()) == 0);
  const pid_t child = fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    dup2(ends[1], STDERR_FILENO);
    close(STDOUT_FILENO);  // keeps Catch2's output out of standard output
    close(ends[0]);
    body();
    std::_Exit(0);
  }
  close(ends[1]);
  std::string words;
  std::array<char, 4096> buffer{};
  for (ssize_t count; (count = read(ends[0], buffer.data(), buffer.size())) > 0;)
    words.append(buffer.data(), static_cast<std::size_t>(count));
  close(ends[0]);
  int status = 0;
  REQUIRE(waitpid(child, &status, 0) == child);
  return status == 0 ? "" : words;
}

// Checks that the kernel fails with a report that contains `says`, and that the device works afterwards.
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
__global__ void barriers_of_two_lines() {
  if (threadIdx.x < 3)
    __syncthreads();
  else
    __syncthreads();
}
__global__ void shuffle_beside_a_barrier(int* out) {
  if (threadIdx.x == 9) __syncthreads();
  out[threadIdx.x] = __shfl_xor_sync(0xffffffffu, static_cast<int>(threadIdx.x), 1);
  if (threadIdx.x != 9) __syncthreads();
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

TEST_CASE("misuse of barriers and shuffles is detected", "[emulator]") {
  const Tensor out = cuda::empty_on_device({32}, DType::i32);
  fails("in __syncthreads for ever, which others did not reach", barrier_for_some,
        {.grid = dim3(2), .block = dim3(32)});
  fails("in __syncthreads for ever, which others did not reach", barriers_of_two_lines,
        {.grid = dim3(2), .block = dim3(32)});
  fails("lanes of its mask did not reach: thread (9, 0, 0) of block (0, 0, 0) waits at mistakes_test.cu",
        shuffle_beside_a_barrier, {.grid = dim3(1), .block = dim3(32)}, out.data<std::int32_t>());
  fails("lanes of its mask did not reach: thread (9, 0, 0) of block (0, 0, 0) has ended",
        shuffle_with_an_absent_lane, {.grid = dim3(1), .block = dim3(32)}, out.data<std::int32_t>());
  fails("reads lane 20, which takes no part", shuffle_from_outside_the_mask,
        {.grid = dim3(1), .block = dim3(32)}, out.data<std::int32_t>());
  fails("lacks the lane itself", without_myself, {.grid = dim3(1), .block = dim3(32)});
  fails("different operations of a warp", two_operations_of_one_mask, {.grid = dim3(1), .block = dim3(32)});
}

__global__ void one_too_far(float* out, int count) {
  if (threadIdx.x <= static_cast<unsigned>(count)) out[threadIdx.x] = 1;
}
__global__ void one_too_far_in_shared_memory(float* out) {
  float* const mine = cuda::shared_memory<float>();
  mine[threadIdx.x + 1] = 1;
  __syncthreads();
  out[threadIdx.x] = mine[threadIdx.x];
}
__global__ void read_one(const float* from, float* out) { *out = *from; }

#ifdef __SANITIZE_ADDRESS__

// AddressSanitizer ends the process.
TEST_CASE("accesses of a kernel outside its memory are detected", "[emulator]") {
  const Tensor out = cuda::empty_on_device({13});
  CHECK_THAT(last_words([&] {
               launch("planted", one_too_far, {.grid = dim3(1), .block = dim3(32)}, out.data<float>(), 13);
               wait();
             }),
             Contains("use-after-poison") && Contains("one_too_far"));
  CHECK_THAT(last_words([&] {
               launch("planted", one_too_far_in_shared_memory,
                      {.grid = dim3(1), .block = dim3(8), .shared_bytes = 32}, out.data<float>());
               wait();
             }),
             Contains("use-after-poison") && Contains("one_too_far_in_shared_memory"));
  CHECK_THAT(last_words([&] {
               float* memory = nullptr;
               cudaMalloc(&memory, 16);
               cudaFree(memory);
               launch("planted", read_one, {.grid = dim3(1), .block = dim3(1)}, memory, out.data<float>());
               wait();
             }),
             Contains("use-after-poison") && Contains("read_one"));
}

#else

TEST_CASE("accesses of a kernel outside its memory are detected", "[emulator]") {
  const Tensor out = cuda::empty_on_device({13});
  fails(
      "one_too_far(float*, int): thread (13, 0, 0) of block (0, 0, 0): writes 4 bytes: 0 bytes behind the 52",
      one_too_far, {.grid = dim3(1), .block = dim3(32)}, out.data<float>(), 13);
  fails("writes 4 bytes: offset 32 of 32 bytes of dynamic shared memory", one_too_far_in_shared_memory,
        {.grid = dim3(1), .block = dim3(8), .shared_bytes = 32}, out.data<float>());
  float* memory = nullptr;
  REQUIRE(cudaMalloc(&memory, 16) == cudaSuccess);
  REQUIRE(cudaFree(memory) == cudaSuccess);
  fails("reads 4 bytes: offset 0 of the 16 bytes", read_one, {.grid = dim3(1), .block = dim3(1)},
        static_cast<const float*>(memory), out.data<float>());
  const Tensor host = ramp(1);
  fails("not the device's memory but the host's", read_one, {.grid = dim3(1), .block = dim3(1)},
        static_cast<const float*>(host.data<float>()), out.data<float>());
}

#ifdef __OPTIMIZE__
// Its accesses are not checked; only the guards show the mistake.
__attribute__((no_sanitize("thread"))) __global__ void unseen(float* out, int count) { out[count] = 1; }

TEST_CASE("a write behind an allocation is detected without checked accesses", "[emulator]") {
  const Tensor out = cuda::empty_on_device({13});
  fails("written outside of 52 bytes", unseen, {.grid = dim3(1), .block = dim3(1)}, out.data<float>(), 13);
}
#endif

__global__ void add_without_atomics(float* sum) { *sum += 1; }
__global__ void raise_a_flag(int* flag) { *flag = 1; }
__global__ void each_its_number(int* out) { *out = static_cast<int>(threadIdx.x + blockIdx.x); }
__global__ void reverse_in_a_warp(int* out, bool barrier) {
  __shared__ int values[32];
  values[threadIdx.x] = static_cast<int>(threadIdx.x);
  if (barrier) __syncwarp();
  out[threadIdx.x] = values[31 - threadIdx.x];
}
__global__ void bytes_of_a_word(signed char* out) { out[threadIdx.x] = 1; }

TEST_CASE("races between threads are detected", "[emulator]") {
  const Tensor out = cuda::empty_on_device({64}, DType::i32);
  int* const ints = out.data<std::int32_t>();
  fails("with no barrier between them", add_without_atomics, {.grid = dim3(1), .block = dim3(2)},
        static_cast<float*>(out.raw()));
  fails("with no barrier between them", add_without_atomics, {.grid = dim3(2), .block = dim3(1)},
        static_cast<float*>(out.raw()));
  fails("with no barrier between them", each_its_number, {.grid = dim3(1), .block = dim3(64)}, ints);
  fails("values", reverse_in_a_warp, {.grid = dim3(1), .block = dim3(32)}, ints, false);
  // These have no race:
  launch("fine", raise_a_flag, {.grid = dim3(4), .block = dim3(64)}, ints);
  launch("fine", reverse_in_a_warp, {.grid = dim3(1), .block = dim3(32)}, ints, true);
  launch("fine", bytes_of_a_word, {.grid = dim3(1), .block = dim3(64)}, static_cast<signed char*>(out.raw()));
  CHECK_NOTHROW(wait());
}
#endif

// Where accesses are checked, the race is reported; elsewhere, the result is wrong.
TEST_CASE("a missing barrier in a product by tiles is detected", "[emulator]") {
  constexpr int kN = 21;
  const Tensor a = cuda::to_device(ramp(kN * kN)), c = cuda::empty_on_device({kN, kN});
  const auto product = [&](auto kernel) {
    launch("product", kernel, {.grid = dim3(2, 2), .block = dim3(trial::kTile, trial::kTile)},
           static_cast<const float*>(a.data<float>()), static_cast<const float*>(a.data<float>()),
           c.data<float>(), kN);
  };
  for (const std::uint64_t seed : {1, 2, 3}) {
    emulator::set_seed(seed);
    product(trial::tiled_product<true>);
    const Tensor right = cuda::to_host(c);
    product(trial::tiled_product<false>);
#ifdef __SANITIZE_THREAD__
    CHECK_THROWS_WITH(wait(), Contains("tiled_product<false>") && Contains("with no barrier between them"));
    emulator::take_report();
#else
    const Tensor wrong = cuda::to_host(c);
    int differ = 0;
    for (Index i = 0; i < kN * kN; ++i) differ += !(wrong.data<float>()[i] == right.data<float>()[i]);
    CHECK(differ > kN);
#endif
  }
}

// Two sums over a block, one after the other, in the same shared memory.
template <bool kBarrier>
__global__ void two_sums(unsigned* out) {
  __shared__ unsigned of_warps[8];
  unsigned sum = 1;  // unsigned, as wrong sums may wrap around
  for (int round = 0; round < 2; ++round) {
    for (int distance = 16; distance > 0; distance /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, distance);
    if (kBarrier) __syncthreads();  // until all threads have read the previous sums
    if (threadIdx.x % 32 == 0) of_warps[threadIdx.x / 32] = sum;
    __syncthreads();
    sum = 0;
    for (const unsigned of_warp : of_warps) sum += of_warp;
  }
  out[threadIdx.x] = sum;
}

TEST_CASE("a warp that overwrites values before another warp reads them is detected", "[emulator]") {
  const Tensor out = cuda::empty_on_device({256}, DType::i32);
  const auto right = [&](auto kernel) {
    launch("sums", kernel, {.grid = dim3(1), .block = dim3(256)}, static_cast<unsigned*>(out.raw()));
    const Tensor result = cuda::to_host(out);
    const auto sums = result.span<std::int32_t>();
    return std::all_of(sums.begin(), sums.end(), [](std::int32_t sum) { return sum == 256 * 256; });
  };
  [[maybe_unused]] int wrong = 0;
  for (std::uint64_t seed = 1; seed <= 20; ++seed) {
    emulator::set_seed(seed);
    CHECK(right(two_sums<true>));
#ifdef __SANITIZE_THREAD__
    CHECK_THROWS_WITH(right(two_sums<false>),
                      Contains("of_warps") && Contains("with no barrier between them"));
    emulator::take_report();
#else
    wrong += !right(two_sums<false>);
#endif
  }
#ifndef __SANITIZE_THREAD__
  CHECK(wrong >= 10);
#endif
}

__global__ void without_writing(float* out) {
  __shared__ float never[64];
  float* const also_never = cuda::shared_memory<float>();
  out[2 * threadIdx.x] = never[threadIdx.x];
  out[2 * threadIdx.x + 1] = also_never[threadIdx.x];
  __syncthreads();
  never[threadIdx.x] = also_never[threadIdx.x] = 1;  // the next launch must not see this
}

TEST_CASE("unwritten shared memory is NaN", "[emulator]") {
  const Tensor out = cuda::empty_on_device({128});
  cuda::check(cudaMemsetAsync(out.raw(), 0, out.bytes()), "zeros");
  for (int again = 0; again < 2; ++again)
    launch("planted", without_writing,
           {.grid = dim3(1), .block = dim3(64), .shared_bytes = 64 * sizeof(float)}, out.data<float>());
  const Tensor result = cuda::to_host(out);
  for (Index i = 0; i < 128; ++i) CHECK(std::isnan(result.data<float>()[i]));
}

TEST_CASE("host access to device memory is detected", "[emulator]") {
  const Tensor device = cuda::to_device(ramp(4));
  CHECK_THAT(last_words([&] { device.data<float>()[0] += 1; }),
             Contains("the host's code touched device memory"));
}

TEST_CASE("unwritten memory is NaN, and use of freed memory is detected", "[emulator]") {
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

TEST_CASE("a host that does not wait for copies is detected", "[emulator]") {
  Tensor host = ramp(4);
  const Tensor device = cuda::empty_on_device({4});
  cuda::copy(host, device);
  host.data<float>()[2] = 7;
  CHECK_THROWS_WITH(wait(), Contains("changed before it had been copied"));
  emulator::take_report();

  const Tensor good = cuda::to_device(ramp(4));
  cuda::copy(good, host);
  host.data<float>()[1] = 7;
  CHECK_THROWS_WITH(wait(), Contains("the host wrote to memory before the copy to it had run"));
  emulator::take_report();

  cuda::copy(good, host);
  CHECK(std::isnan(host.data<float>()[0]));  // too early
  wait();
  CHECK(host.data<float>()[0] == 1);
}

TEST_CASE("a missing wait between two streams is detected", "[emulator]") {
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
#ifdef __SANITIZE_THREAD__
  CHECK_THROWS_WITH(seen(false), Contains("with no event between them"));
  CHECK_THAT(emulator::take_report(),
             Contains("on another stream") && Contains("with no event between them"));
#else
  CHECK(seen(false) == 0);
#endif

  const cuda::Event event;
  launch("set", set, {.grid = dim3(1), .block = dim3(1)}, value.data<float>(), 6.0f);
  event.record(nullptr);
  CHECK_FALSE(event.passed());
  int asked = 1;
  for (; !event.passed(); ++asked) REQUIRE(asked < 10);
  CHECK(cuda::to_host(value).data<float>()[0] == 6);
}

TEST_CASE("unordered copies on two streams are detected", "[emulator]") {
  const Tensor values = ramp(64), device = cuda::to_device(values), read = Tensor::empty({64});
  const cuda::Stream first, second;
  const cuda::Event written;
  for (const bool waits : {true, false}) {
    cuda::check(cudaMemsetAsync(device.raw(), 0, device.bytes(), first.handle()), "zeros");
    written.record(first.handle());
    if (waits) second.wait_for(written);
    {
      const cuda::StreamScope scope(second);
      cuda::copy(device, read);
    }
    if (waits) {
      CHECK_NOTHROW(second.synchronize());
      CHECK(read.data<float>()[0] == 0);
    } else {
      first.synchronize();  // too late for the work that is queued already
      CHECK_THROWS_WITH(second.synchronize(), Contains("a copy reads offset 0 of") &&
                                                  Contains("a fill on another stream wrote") &&
                                                  Contains("with no event between them"));
      emulator::take_report();
    }
  }
}

TEST_CASE("host calls that a capture forbids are reported", "[emulator]") {
  const cuda::Stream stream;
  const cuda::StreamScope scope(stream);
  const cuda::Event event;
  const Tensor device = cuda::to_device(ramp(4)), host = ramp(4);
  void* memory = nullptr;
  const auto planted = [&](const char* says, auto mistake) {
    INFO(says);
    CHECK_THROWS_WITH(cuda::Graph([&] { mistake(); }), Contains(says));
    CHECK_THAT(emulator::take_report(), Contains(says));
    CHECK_NOTHROW(cuda::synchronize());
  };
  const char* const kNotNow = ": not while this thread captures a stream's work";
  const auto refused = [&](const std::string& function, auto mistake) {
    planted((function + kNotNow).c_str(), mistake);
  };
  refused("cudaMalloc", [&] { cudaMalloc(&memory, 16); });
  refused("cudaFree", [&] { cudaFree(device.raw()); });
  refused("cudaMallocHost", [&] { cudaMallocHost(&memory, 16); });
  refused("cudaFreeHost", [&] { cudaFreeHost(memory); });
  refused("cudaStreamSynchronize", [] { cuda::synchronize(); });
  refused("cudaStreamSynchronize", [&] { stream.synchronize(); });
  refused("cudaStreamQuery", [&] { cudaStreamQuery(stream.handle()); });
  refused("cudaEventSynchronize", [&] { event.synchronize(); });
  refused("cudaEventQuery", [&] { event.passed(); });
  refused("cudaDeviceSynchronize", [] { cudaDeviceSynchronize(); });
  // A GPU accepts these:
  planted("a copy from or to the host is captured", [&] { cuda::copy(host, device); });
  planted("a copy from or to the host is captured", [&] { cuda::copy(device, host); });
  planted("an event is captured", [&] { event.record(cuda::current_stream()); });
  planted("the end of a stream is captured", [] { cudaStreamDestroy(cuda::current_stream()); });
  planted("a wait for an event is captured",
          [&] { cudaStreamWaitEvent(cuda::current_stream(), event.handle(), 0); });
  const cuda::Graph graph([] {});
  planted("a graph is captured", [&] { graph.launch(); });

  CHECK(cudaStreamBeginCapture(nullptr, cudaStreamCaptureModeThreadLocal) ==
        cudaErrorStreamCaptureUnsupported);
  CHECK(cudaGetLastError() == cudaErrorStreamCaptureUnsupported);
  planted("this stream's work is being captured",
          [] { cudaStreamBeginCapture(cuda::current_stream(), cudaStreamCaptureModeThreadLocal); });
  cudaGraph_t none = nullptr;
  CHECK(cudaStreamEndCapture(stream.handle(), &none) == cudaErrorLaunchFailure);
  CHECK_THAT(emulator::take_report(), Contains("not being captured"));
  cudaGraphExec_t executable = nullptr;
  REQUIRE(cudaStreamBeginCapture(stream.handle(), cudaStreamCaptureModeThreadLocal) == cudaSuccess);
  REQUIRE(cudaStreamEndCapture(stream.handle(), &none) == cudaSuccess);
  REQUIRE(cudaGraphInstantiate(&executable, none) == cudaSuccess);
  cudaGraphDestroy(none);
  cudaGraphExecDestroy(executable);
  CHECK(cudaGraphLaunch(executable, stream.handle()) == cudaErrorLaunchFailure);
  CHECK_THAT(emulator::take_report(), Contains("a graph is launched that was destroyed"));
}

TEST_CASE("a graph that uses freed memory is detected", "[emulator]") {
  const auto captured = [] {
    const Tensor gone = cuda::empty_on_device({4});
    return std::make_unique<cuda::Graph>([&] { cuda::zero(gone); });
  };
  const auto graph = captured();
  graph->launch();
  CHECK_THROWS_WITH(wait(), Contains("this memory was given back"));
  emulator::take_report();
}

TEST_CASE("misuse of pinned memory is detected", "[emulator]") {
  const Tensor device = cuda::empty_on_device({2});
  void* memory = nullptr;
  REQUIRE(cudaHostAlloc(&memory, 12, cudaHostAllocDefault) == cudaSuccess);
  auto* const values = static_cast<float*>(memory);
  CHECK(std::isnan(values[2]));
  CHECK(cudaMemcpyAsync(device.raw(), values + 1, 8, cudaMemcpyHostToDevice) == cudaSuccess);
  wait();
#ifndef __SANITIZE_ADDRESS__
  values[3] = 1;
  launch("planted", set, {.grid = dim3(1), .block = dim3(1)}, device.data<float>(), 1.0f);
  CHECK_THROWS_WITH(wait(), Contains("written behind 12 bytes of pinned memory"));
  emulator::take_report();
#endif
  CHECK_THAT(last_words([&] {
               cudaFreeHost(memory);
               values[0] = 1;
             }),
             Contains("the host's code touched pinned memory that was given back"));
  CHECK(cudaFreeHost(values + 1) == cudaErrorLaunchFailure);
  CHECK_THAT(emulator::take_report(), Contains("not the beginning of pinned memory"));
  CHECK(cudaFreeHost(memory) == cudaSuccess);
  CHECK(cudaFreeHost(memory) == cudaErrorLaunchFailure);
  CHECK_THAT(emulator::take_report(), Contains("given back before"));
  CHECK(cudaMemcpyAsync(memory, device.raw(), 8, cudaMemcpyDeviceToHost) == cudaErrorLaunchFailure);
  CHECK_THAT(emulator::take_report(), Contains("this pinned memory was given back"));

  emulator::set_pinned_memory(1000);
  CHECK_THROWS_WITH(cuda::PinnedMemory(1001), Contains("1001 B of this host's memory cannot be pinned"));
  CHECK(cudaGetLastError() == cudaSuccess);
  emulator::set_pinned_memory(std::size_t{1} << 40);
}

TEST_CASE("copies with pageable host memory are counted", "[emulator]") {
  const Tensor device = cuda::to_device(ramp(3)), host = Tensor::empty({3});
  const cuda::PinnedMemory memory(12);
  const Tensor pinned = Tensor::borrow(memory.data(), {3}, DType::f32);
  const auto counted = [&](const Tensor& from, const Tensor& to) {
    const std::size_t before = emulator::counters().pageable_copies;
    cuda::copy(from, to);
    wait();
    return emulator::counters().pageable_copies - before;
  };
  CHECK(counted(device, pinned) == 0);
  CHECK(pinned.data<float>()[2] == 3);
  CHECK(counted(pinned, device) == 0);
  CHECK(counted(device, device) == 0);
  CHECK(counted(device, host) == 1);
  CHECK(counted(host, device) == 1);
}

TEST_CASE("invalid launches and too much memory are refused", "[emulator]") {
  const auto refused = [](dim3 grid, dim3 block) {
    CHECK_THROWS_WITH(launch("planted", barrier_for_some, {.grid = grid, .block = block}),
                      Contains("planted: CUDA says: invalid configuration"));
  };
  refused(dim3(1), dim3(1025));
  refused(dim3(0), dim3(32));
  refused(dim3(1, 65536), dim3(32));
  refused(dim3(1), dim3(1, 1, 65));
  cudaLaunchConfig_t more_shared;  // launch() would ask CUDA for the memory
  more_shared.blockDim = dim3(32);
  more_shared.dynamicSmemBytes = 48 << 10;  // too much, with the room for variables of functions
  CHECK(cudaLaunchKernelEx(&more_shared, barrier_for_some) == cudaErrorInvalidValue);
  CHECK(cudaFuncSetAttribute(barrier_for_some, cudaFuncAttributeMaxDynamicSharedMemorySize, 228 << 10) ==
        cudaErrorInvalidValue);
  CHECK(cudaFuncSetAttribute(read_one, cudaFuncAttributeMaxDynamicSharedMemorySize, 227 << 10) ==
        cudaSuccess);
  const Tensor two = cuda::to_device(ramp(2));
  launch("much shared memory", read_one, {.grid = dim3(1), .block = dim3(1), .shared_bytes = 227 << 10},
         static_cast<const float*>(two.data<float>()), two.data<float>() + 1);
  CHECK(cuda::to_host(two).data<float>()[1] == 1);

  emulator::set_memory(std::size_t{1} << 30);
  CHECK_THROWS_WITH(cuda::DeviceMemory(std::size_t{2} << 30), Contains("2.0 GiB are needed"));
  emulator::set_memory(std::size_t{4} << 30);
}

}  // namespace
}  // namespace conclave
