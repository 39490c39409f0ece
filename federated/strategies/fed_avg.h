// Federated averaging, and averaging with sites that stay near the global model.
#pragma once

#include "federated/strategies/mean_strategy.h"

namespace conclave {

/// McMahan et al. 2017, algorithm 1, in terms of changes: x += eta sum_k n_k / n Delta_k. `server_rate` eta
/// is 1 unless said otherwise, and the result the weighted mean of the sites' models.
class FedAvg : public MeanStrategy {
 public:
  using MeanStrategy::MeanStrategy;

 protected:
  void apply(std::size_t, std::span<float> global, std::span<const double> mean) override {
    add(server_rate(1), mean, global);
  }
};

/// Li et al. 2020, algorithm 2: the coordinator's part is FedAvg's; sites add mu / 2 |w - global|^2 to the
/// loss.
class FedProx final : public FedAvg {
 public:
  FedProx(const StrategyOptions& options, std::size_t elements);
  SiteRules site_rules() const override { return {.proximal = options_.proximal}; }
};

}  // namespace conclave
