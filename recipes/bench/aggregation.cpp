// Compares the coordinator's aggregation with a single read of the updates: each update is copied over one
// vector, which loads as many bytes from memory as the aggregation must.
#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <span>
#include <string>
#include <vector>

#include "federated/strategies/strategy.h"
#include "recipes/bench/bench.h"

namespace conclave::bench {
namespace {

constexpr std::size_t kElements = 10'000'000, kBlock = std::size_t{1} << 18;

void aggregate(const std::string& name, std::size_t sites, std::int64_t repetitions) {
  std::vector<std::vector<float>> changes(sites, std::vector<float>(kElements));
  for (std::size_t i = 0; i < sites; ++i)
    fill(Tensor::borrow(changes[i].data(), {kElements}, DType::f32), static_cast<std::uint32_t>(i));
  std::vector<float> global(kElements), copy(kElements);
  const std::vector<double> weights(sites, 1.0);
  std::vector<std::span<const float>> block(sites);
  const auto strategy = make_strategy({.name = name}, kElements);
  const auto round = [&] {
    strategy->begin_round({.weights = weights});
    for (std::size_t begin = 0; begin < kElements; begin += kBlock) {
      const std::size_t n = std::min(kBlock, kElements - begin);
      for (std::size_t i = 0; i < sites; ++i) block[i] = std::span(changes[i]).subspan(begin, n);
      strategy->aggregate({begin, std::span(global).subspan(begin, n), block});
    }
  };
  const auto copies = [&] {
    for (const auto& change : changes) {
#pragma omp parallel for schedule(static)
      for (std::size_t begin = 0; begin < kElements; begin += kBlock)
        std::memcpy(&copy[begin], &change[begin], std::min(kBlock, kElements - begin) * sizeof(float));
    }
  };
  const Comparison time = compare(round, copies, repetitions);
  const double bytes = static_cast<double>(sites * kElements * sizeof(float));
  print_figure(fmt::format("{} of {} updates of 10^7 elements, of memcpy's speed", name, sites),
               fmt::format("{:.1f} GB/s against {:.1f}: {:.0f}%", bytes / time.subject / 1e9,
                           bytes / time.reference / 1e9, 100 * time.ratio));
}

}  // namespace

void aggregation(std::int64_t repetitions) {
  for (const char* name : {"fedavg", "fedadam", "median"}) aggregate(name, 32, repetitions);
}

}  // namespace conclave::bench
