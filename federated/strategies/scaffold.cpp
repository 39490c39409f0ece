#include "federated/strategies/scaffold.h"

#include <algorithm>

#include "core/error.h"

namespace conclave {

Scaffold::Scaffold(const StrategyOptions& options, std::size_t elements) : MeanStrategy(options, elements) {
  require(options.sites > 0, "sites {}: scaffold has to know how many the federation has", options.sites);
  count_equally_ = true;
}

void Scaffold::prepare(const RoundUpdates& updates) {
  MeanStrategy::prepare(updates);
  // More sites can take part than the list has, if one of them was removed from it.
  participation_ = std::min(1.0, static_cast<double>(updates.sites) / static_cast<double>(options_.sites));
}

}  // namespace conclave
