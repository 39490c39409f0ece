// Correct kernels give correct results on the emulated device. mistakes_test.cu has the faulty ones.
#define CATCH_CONFIG_EXTERNAL_INTERFACES  // for the listener
#include <algorithm>
#include <random>
#include <vector>

#include "tests/cuda_emulator/trial.h"
#include "tests/cuda_emulator/trial_kernels.h"

namespace conclave {
namespace {

using cuda::launch;

// Clears the report before each test, so that one failed test does not fail all later ones.
struct CleanDevice : Catch::TestEventListenerBase {
  using TestEventListenerBase::TestEventListenerBase;
  void testCaseStarting(const Catch::TestCaseInfo&) override { emulator::take_report(); }
};
CATCH_REGISTER_LISTENER(CleanDevice)

Tensor normals(const Shape& shape) {
  std::mt19937 engine(7);
  std::normal_distribution<float> normal;
  const Tensor values = Tensor::empty(shape);
  for (float& value : values.span<float>()) value = normal(engine);
  return values;
}

TEST_CASE("emulator: row statistics by shuffles and shared memory", "[emulator]") {
  constexpr int kRows = 5, kColumns = 300;
  const Tensor x = normals({kRows, kColumns}), scale = normals({kColumns}), shift = ramp(kColumns);
  const Tensor on_device[] = {cuda::to_device(x), cuda::to_device(scale), cuda::to_device(shift)};
  const Tensor y = cuda::empty_on_device({kRows, kColumns}),
               half = cuda::empty_on_device({kRows, kColumns}, DType::bf16);
  launch("layer norm", trial::layer_norm_gelu<float>, {.grid = dim3(kRows), .block = dim3(128)},
         on_device[0].data<float>(), on_device[1].data<float>(), on_device[2].data<float>(), y.data<float>(),
         kColumns);
  launch("layer norm", trial::layer_norm_gelu<__nv_bfloat16>, {.grid = dim3(kRows), .block = dim3(256)},
         on_device[0].data<float>(), on_device[1].data<float>(), on_device[2].data<float>(),
         static_cast<__nv_bfloat16*>(half.raw()), kColumns);
  const Tensor result = cuda::to_host(y), rounded = cuda::to_host(half).to(DType::f32);
  for (int row = 0; row < kRows; ++row) {
    const float* const of = x.data<float>() + row * kColumns;
    const double mean = std::accumulate(of, of + kColumns, 0.0) / kColumns;
    double squares = 0;
    for (int i = 0; i < kColumns; ++i) squares += (of[i] - mean) * (of[i] - mean);
    for (int i = 0; i < kColumns; ++i) {
      const double normal = (of[i] - mean) / std::sqrt(squares / kColumns + 1e-5) * scale.data<float>()[i] +
                            shift.data<float>()[i];
      const double expected = 0.5 * normal * (1 + std::erf(normal / std::sqrt(2.0)));
      CHECK(result.data<float>()[row * kColumns + i] == Approx(expected).epsilon(1e-4).margin(1e-5));
      CHECK(rounded.data<float>()[row * kColumns + i] == Approx(expected).epsilon(1.0 / 256).margin(1e-5));
    }
  }
}

TEST_CASE("emulator: a product by tiles", "[emulator]") {
  constexpr int kN = 37;
  const Tensor host = normals({kN, kN}), a = cuda::to_device(host), c = cuda::empty_on_device({kN, kN});
  for (const std::uint64_t seed : {1, 2, 3}) {
    emulator::set_seed(seed);
    launch("product", trial::tiled_product<true>,
           {.grid = dim3(3, 3), .block = dim3(trial::kTile, trial::kTile)}, a.data<float>(), a.data<float>(),
           c.data<float>(), kN);
    const Tensor result = cuda::to_host(c);
    for (int row = 0; row < kN; ++row)
      for (int column = 0; column < kN; ++column) {
        double sum = 0;
        for (int i = 0; i < kN; ++i)
          sum += static_cast<double>(host.data<float>()[row * kN + i]) * host.data<float>()[i * kN + column];
        CHECK(result.data<float>()[row * kN + column] == Approx(sum).margin(1e-4));
      }
  }
}

TEST_CASE("emulator: a histogram by atomics", "[emulator]") {
  constexpr int kCount = 1000, kBins = 10;
  Tensor values = Tensor::empty({kCount}, DType::i32);
  std::vector<int> expected(kBins);
  for (int i = 0; i < kCount; ++i)
    ++expected[static_cast<std::size_t>(values.data<std::int32_t>()[i] = i * i % kBins)];
  const Tensor on_device = cuda::to_device(values), counts = cuda::empty_on_device({kBins}, DType::i32);
  cuda::check(cudaMemsetAsync(counts.raw(), 0, counts.bytes(), nullptr), "zeros");
  launch("histogram", trial::histogram,
         {.grid = dim3(4), .block = dim3(64), .shared_bytes = kBins * sizeof(int)},
         on_device.data<std::int32_t>(), kCount, counts.data<std::int32_t>(), kBins);
  const Tensor result = cuda::to_host(counts);
  CHECK(std::vector<int>(result.data<std::int32_t>(), result.data<std::int32_t>() + kBins) == expected);
}

TEST_CASE("emulator: four floats at a time, by many threads without barriers", "[emulator]") {
  constexpr Index kCount = 4 * 256 * 256;
  const Tensor x = cuda::to_device(ramp(kCount)), y = cuda::to_device(ramp(kCount));
  launch("addition", trial::add_fours, {.grid = dim3(256), .block = dim3(256)},
         static_cast<const float4*>(x.raw()), static_cast<float4*>(y.raw()), static_cast<int>(kCount / 4));
  const Tensor result = cuda::to_host(y);
  bool right = true;
  for (Index i = 0; i < kCount; ++i) right &= result.data<float>()[i] == 2 * static_cast<float>(i + 1);
  CHECK(right);
}

TEST_CASE("emulator: sums by tiles of a warp", "[emulator]") {
  const Tensor values = Tensor::empty({192}, DType::i32);
  for (int i = 0; i < 192; ++i) values.data<std::int32_t>()[i] = i * i % 11;
  const Tensor on_device = cuda::to_device(values), sums = cuda::empty_on_device({24}, DType::i32),
               above = cuda::empty_on_device({24}, DType::i32);
  launch("sums", trial::sums_of_eights, {.grid = dim3(2), .block = dim3(96)}, on_device.data<std::int32_t>(),
         sums.data<std::int32_t>(), above.data<std::int32_t>());
  const Tensor sum = cuda::to_host(sums), over = cuda::to_host(above);
  for (int i = 0; i < 24; ++i) {
    const auto eight = values.span<std::int32_t>().subspan(8 * static_cast<std::size_t>(i), 8);
    CHECK(sum.data<std::int32_t>()[i] == std::accumulate(eight.begin(), eight.end(), 0));
    CHECK(over.data<std::int32_t>()[i] == std::ranges::count_if(eight, [](int value) { return value > 4; }));
  }
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

TEST_CASE("emulator: ballots, shuffles and barriers, also in an incomplete warp", "[emulator]") {
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

#ifdef __SANITIZE_THREAD__
// Adds 1 in place, reads the result again, and reads a table that all blocks share.
__global__ void add_one(float* values, const float* table, float* sums) {
  const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
  values[i] += 1;
  sums[i] = values[i] + table[threadIdx.x % 8];
}

TEST_CASE("emulator: traffic counts sectors once per block and once per launch", "[emulator]") {
  constexpr Index kCount = 128;
  const Tensor values = cuda::to_device(ramp(kCount)), table = cuda::to_device(ramp(8)),
               sums = cuda::empty_on_device({kCount}), host = Tensor::empty({kCount});
  REQUIRE(emulator::count_traffic(true));
  for (const std::uint64_t seed : {1, 2}) {
    emulator::set_seed(seed);
    launch("addition", add_one, {.grid = dim3(4), .block = dim3(kCount / 4)}, values.data<float>(),
           static_cast<const float*>(table.data<float>()), sums.data<float>());
    cuda::check(cudaMemsetAsync(table.raw(), 0, 20), "zeros");
    cuda::copy(sums, host);
    wait();
    const std::vector<emulator::Traffic> traffic = emulator::take_traffic();
    REQUIRE(traffic.size() == 3);
    CHECK_THAT(traffic[0].what, Catch::Contains("kernel add_one"));
    CHECK(traffic[0].read == 4 * kCount + 32);
    CHECK(traffic[0].written == 8 * kCount);
    CHECK(traffic[0].read_by_blocks == 4 * kCount + 4 * 32);
    CHECK(traffic[0].written_by_blocks == 8 * kCount);
    CHECK((traffic[1].what == "a fill" && traffic[1].read == 0 && traffic[1].written == 32));
    CHECK((traffic[2].what == "a copy" && traffic[2].read == 4 * kCount && traffic[2].written == 0));
  }
  emulator::count_traffic(false);
  launch("addition", add_one, {.grid = dim3(4), .block = dim3(kCount / 4)}, values.data<float>(),
         static_cast<const float*>(table.data<float>()), sums.data<float>());
  wait();
  CHECK(emulator::take_traffic().empty());
}
#endif

TEST_CASE("emulator: counters, device properties and the time between events", "[emulator]") {
  const emulator::Counters before = emulator::counters();
  {
    const Tensor device = cuda::to_device(ramp(10));
    launch("addition", trial::add_fours, {.grid = dim3(1), .block = dim3(1)},
           static_cast<const float4*>(device.raw()), static_cast<float4*>(device.raw()), 1);
    CHECK(emulator::counters().launches == before.launches);  // nothing has waited for it yet
    CHECK(cuda::to_host(device).data<float>()[3] == 8);
    CHECK(emulator::counters().live_bytes == before.live_bytes + 40);
    CHECK(emulator::leaks().size() == before.live + 1);
    CHECK_THAT(emulator::leaks().back(), Catch::Contains("of 40 bytes"));
  }
  const emulator::Counters after = emulator::counters();
  CHECK(after.launches == before.launches + 1);
  CHECK(after.allocations == before.allocations + 1);
  CHECK(after.live == before.live);
  CHECK(after.copies == before.copies + 2);
  CHECK(after.copied_bytes == before.copied_bytes + 80);

  cudaDeviceProp properties;
  REQUIRE(cudaGetDeviceProperties(&properties, 0) == cudaSuccess);
  CHECK(properties.warpSize == 32);
  const cuda::Event begin(cuda::Timing::on), end(cuda::Timing::on), untimed;
  for (const cuda::Event* event : {&begin, &end, &untimed}) event->record(nullptr);
  CHECK_THROWS_WITH(end.seconds_since(begin), "asking for a time: CUDA says: device not ready");
  CHECK(cudaGetLastError() == cudaErrorNotReady);
  CHECK(cudaGetLastError() == cudaSuccess);
  untimed.synchronize();
  CHECK(end.seconds_since(begin) >= 0);
  CHECK_THROWS_WITH(untimed.seconds_since(begin), "asking for a time: CUDA says: invalid resource handle");
}

}  // namespace
}  // namespace conclave
