// All columns of a tile are sorted together by a network of comparisons, which is the same for each column.
// So there are no branches to predict, and a comparison is a minimum and a maximum of whole vectors.
#include "federated/strategies/trimmed_mean.h"

#include <omp.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>

#include "core/error.h"
#include "core/kernels/tile.h"
#include "federated/strategies/tiles.h"

namespace conclave {
namespace {

constexpr std::size_t kColumns = 64;  // 256 bytes of each update, four cache lines

void compare_exchange(float* a, float* b) {
  using kernels::load, kernels::store;
  constexpr std::size_t kLanes = kernels::kLanes<float>;
  for (std::size_t j = 0; j < kColumns; j += kLanes) {
    const auto x = load<float>(a + j), y = load<float>(b + j);
    store<float>(a + j, x < y ? x : y);
    store<float>(b + j, x > y ? x : y);
  }
}

// Batcher's merge exchange (Knuth, volume 3, algorithm 5.2.2M): sorts rows[.][j] for each j.
void sort_columns(float (*rows)[kColumns], std::size_t count) {
  if (count < 2) return;
  const std::size_t top = std::bit_ceil(count) / 2;
  for (std::size_t p = top; p > 0; p /= 2)
    for (std::size_t q = top, r = 0, d = p;; d = q - p, q /= 2, r = p) {
      for (std::size_t i = 0; i + d < count; ++i)
        if ((i & p) == r) compare_exchange(rows[i], rows[i + d]);
      if (q == p) break;
    }
}

}  // namespace

TrimmedMean::TrimmedMean(const StrategyOptions& options, std::size_t elements, double share)
    : Strategy(options, elements), share_(share) {
  require(share >= 0 && share <= 0.5, "trimmed {}, expected from 0 to 0.5", share);
}

void TrimmedMean::prepare(const RoundUpdates& updates) {
  present_.reserve(updates.weights.size());
  threads_ = omp_get_max_threads();
  columns_.resize(static_cast<std::size_t>(threads_) * updates.weights.size() * kColumns);
}

void TrimmedMean::aggregate_block(const Block& block) {
  present_.clear();
  for (std::size_t i = 0; i < block.updates.size(); ++i)
    if (block.weights[i] > 0) present_.push_back(block.updates[i].data());
  const std::size_t count = present_.size();
  // Slightly less, because in floating point a product may be too large: 0.07 * 100 is above 7.
  const auto share = static_cast<std::size_t>(std::ceil(share_ * static_cast<double>(count) - 1e-9));
  const std::size_t cut = std::min(share, (count - 1) / 2);
  const double rate = server_rate(1) / static_cast<double>(count - 2 * cut);
  const std::size_t n = block.global.size();
#pragma omp parallel for schedule(static) num_threads(threads_) if (n > kColumns)
  for (std::size_t begin = 0; begin < n; begin += kColumns) {
    const auto thread = static_cast<std::size_t>(omp_get_thread_num());
    auto* rows = reinterpret_cast<float(*)[kColumns]>(&columns_[thread * block.updates.size() * kColumns]);
    const std::size_t columns = std::min(kColumns, n - begin);
    for (std::size_t i = 0; i < count; ++i)
      std::memcpy(rows[i], present_[i] + begin, columns * sizeof(float));
    sort_columns(rows, count);
    std::array<double, kColumns> sum{};
    for (std::size_t i = cut; i < count - cut; ++i)
      for (std::size_t j = 0; j < columns; ++j) sum[j] += rows[i][j];
    for (std::size_t j = 0; j < columns; ++j) {
      float& x = block.global[begin + j];
      x = strategies::bounded(x + rate * sum[j]);
    }
  }
}

}  // namespace conclave
