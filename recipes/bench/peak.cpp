#include <cblas.h>
#include <fmt/format.h>
#include <omp.h>

#include "recipes/bench/bench.h"
#include "recipes/bench/multiply_add.h"

namespace conclave::bench {
namespace {

volatile float sink;
volatile float factor = 0.999f,
               addend = 0.001f;  // x -> 0.999 x + 0.001 stays near 1: no overflow, no denormals

}  // namespace

void Peak::run() const {
  float total = 0;
#pragma omp parallel num_threads(threads_) reduction(+ : total)
  total += kernels::has_wide_vectors() ? multiply_add<64>(factor, addend) : multiply_add<32>(factor, addend);
  sink = total;
}

double Peak::flops() const {
  const Index lanes = kernels::has_wide_vectors() ? kernels::kLanes<float, 64> : kernels::kLanes<float>;
  return 2.0 * static_cast<double>(lanes) * kChains * kRounds * threads_;
}

void peak(std::int64_t repetitions) {
  const int threads = omp_get_max_threads();
  const Peak one(1), all(threads);
  const Comparison time = compare([&] { all.run(); }, [&] { one.run(); }, repetitions);
  print_figure("FMA peak, 1 thread", fmt::format("{:.0f} GFLOP/s", one.flops() / time.reference / 1e9));
  print_figure(fmt::format("FMA peak, {} threads", threads),
               fmt::format("{:.0f} GFLOP/s, {:.2f} times as much", all.flops() / time.subject / 1e9,
                           threads * time.ratio));
  print_figure("kernels of OpenBLAS", openblas_get_corename());
}

}  // namespace conclave::bench
