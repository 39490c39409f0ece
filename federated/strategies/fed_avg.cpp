#include "federated/strategies/fed_avg.h"

#include <cmath>

#include "core/error.h"

namespace conclave {

FedProx::FedProx(const StrategyOptions& options, std::size_t elements) : FedAvg(options, elements) {
  require(std::isfinite(options.proximal) && options.proximal >= 0, "proximal {}, expected at least 0",
          options.proximal);
}

}  // namespace conclave
