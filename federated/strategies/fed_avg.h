// Federated averaging, and averaging with sites that are held near the global model.
#pragma once

#include "federated/strategies/mean_strategy.h"

namespace conclave {

/// McMahan et al. 2017, algorithm 1, in terms of changes: x += eta sum_k n_k / n Delta_k. The default of
/// `server_rate`, eta, is 1; the result is then the weighted mean of the sites' models.
class FedAvg : public MeanStrategy {
 public:
  using MeanStrategy::MeanStrategy;

 protected:
  void apply(std::size_t, std::span<float> global, std::span<const double> mean) override {
    add(server_rate(1), mean, global);
  }
};

/// Li et al. 2020, algorithm 2: the coordinator does what it does in FedAvg; sites add mu / 2 |w - global|^2
/// to the loss.
class FedProx final : public FedAvg {
 public:
  static constexpr StrategyTraits kTraits{.needs_mean_only = true, .proximal = true};
  FedProx(const StrategyOptions& options, std::size_t elements);
};

}  // namespace conclave
