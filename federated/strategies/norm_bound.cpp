#include "federated/strategies/norm_bound.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"

namespace conclave {

NormBound::NormBound(const StrategyOptions& options, std::size_t elements) : MeanStrategy(options, elements) {
  require(std::isfinite(options.norm_bound) && options.norm_bound > 0,
          "norm_bound {}, expected above 0: about the norm of an honest update", options.norm_bound);
  count_equally_ = true;
}

void NormBound::prepare(const RoundUpdates& updates) {
  MeanStrategy::prepare(updates);
  for (std::size_t i = 0; i < factors_.size(); ++i)
    factors_[i] = 1 / std::max(1.0, updates.norms[i] / options_.norm_bound);
}

}  // namespace conclave
