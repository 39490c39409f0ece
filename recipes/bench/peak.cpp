#include <fmt/format.h>
#include <omp.h>

#include <array>

#include "recipes/bench/bench.h"

namespace conclave::bench {
namespace {

using Vector [[gnu::vector_size(32)]] = float;  // one AVX register

// A fused multiply-add takes 4 to 5 cycles and two start in each: 10 independent ones keep both units busy,
// 12 leave room for the scheduler, and with the two factors still fit the 16 registers.
constexpr int kChains = 12;
constexpr int kRounds = 10'000'000;  // some 20 ms

volatile float sink;
volatile float factor = 0.999f,
               addend = 0.001f;  // x -> 0.999 x + 0.001 stays near 1: no overflow, no denormals

float multiply_add() {
  const Vector a = Vector{} + factor, b = Vector{} + addend;
  std::array<Vector, kChains> x;
  for (int i = 0; i < kChains; ++i) x[static_cast<std::size_t>(i)] = b * static_cast<float>(i);
  for (int round = 0; round < kRounds; ++round)
#pragma GCC unroll 12
    for (Vector& chain : x) chain = chain * a + b;
  Vector sum{};
  for (const Vector& chain : x) sum += chain;
  float total = 0;
  for (int i = 0; i < 8; ++i) total += sum[i];
  return total;
}

}  // namespace

void Peak::run() const {
  float total = 0;
#pragma omp parallel num_threads(threads_) reduction(+ : total)
  total += multiply_add();
  sink = total;
}

double Peak::flops() const { return 2.0 * 8 * kChains * kRounds * threads_; }

void peak(std::int64_t repetitions) {
  const int threads = omp_get_max_threads();
  const Peak one(1), all(threads);
  const Comparison time = compare([&] { all.run(); }, [&] { one.run(); }, repetitions);
  print_figure("FMA peak, 1 thread", fmt::format("{:.0f} GFLOP/s", one.flops() / time.reference / 1e9));
  print_figure(fmt::format("FMA peak, {} threads", threads),
               fmt::format("{:.0f} GFLOP/s, {:.2f} times as much", all.flops() / time.subject / 1e9,
                           threads * time.ratio));
}

}  // namespace conclave::bench
