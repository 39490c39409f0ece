#include "federated/strategies/fed_buff.h"

#include <cmath>

#include "core/error.h"

namespace conclave {

FedBuff::FedBuff(const StrategyOptions& options, std::size_t elements) : MeanStrategy(options, elements) {
  require(options.buffer > 0, "buffer {}, expected at least one update", options.buffer);
}

void FedBuff::prepare(const RoundUpdates& updates) {
  MeanStrategy::prepare(updates);
  for (std::size_t i = 0; i < updates.staleness.size(); ++i)
    factors_[i] = 1 / std::sqrt(1 + updates.staleness[i]);
}

}  // namespace conclave
