#include "federated/strategies/mean_strategy.h"

#include <array>

#include "federated/strategies/tiles.h"

namespace conclave {

void MeanStrategy::prepare(const RoundUpdates& updates) {
  factors_.assign(updates.weights.size(), 1.0);
  shares_.resize(updates.weights.size());
}

void MeanStrategy::aggregate_block(const Block& block) {
  const auto weight = [&](double given) { return count_equally_ ? static_cast<double>(given > 0) : given; };
  const double most = std::ranges::max(block.weights);  // a plain sum could exceed the range of f64
  double total = 0;
  for (const double given : block.weights) total += weight(given) / most;
  for (std::size_t i = 0; i < shares_.size(); ++i)
    shares_[i] = factors_[i] * (weight(block.weights[i]) / most / total);
  strategies::for_tiles(block.global.size(), [&](std::size_t begin, std::size_t count) {
    std::array<double, strategies::kTile> mean;
    strategies::weighted_sum(block.updates, shares_, begin, count, mean.data());
    apply(block.offset + begin, block.global.subspan(begin, count), std::span(mean).first(count));
  });
}

void MeanStrategy::add(double rate, std::span<const double> mean, std::span<float> global) {
  for (std::size_t j = 0; j < global.size(); ++j) global[j] = strategies::bounded(global[j] + rate * mean[j]);
}

}  // namespace conclave
