#include "federated/strategies/scaffold.h"

#include "core/error.h"

namespace conclave {

Scaffold::Scaffold(const StrategyOptions& options, std::size_t elements) : MeanStrategy(options, elements) {
  require(options.sites > 0, "sites {}: scaffold has to know how many the federation has", options.sites);
}

void Scaffold::prepare(const RoundUpdates& updates) {
  MeanStrategy::prepare(updates);
  participation_ = static_cast<double>(updates.sites) / static_cast<double>(options_.sites);
  require(participation_ <= 1, "scaffold: updates of {} sites, in a federation of {}", updates.sites,
          options_.sites);
}

}  // namespace conclave
