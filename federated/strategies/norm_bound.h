// Norm bounding (Sun et al. 2019): an update longer than M is shortened to M,
//
//   x += eta mean_i Delta_i / max(1, |Delta_i| / M)
//
// so that of n sites one moves the model by M / n at most, whatever it sends. Each counts once: how many
// examples a site says that it has is as little to be trusted as its update.
#pragma once

#include "federated/strategies/mean_strategy.h"

namespace conclave {

class NormBound final : public MeanStrategy {
 public:
  /// options.norm_bound is M. `server_rate` eta is 1 unless said otherwise.
  NormBound(const StrategyOptions& options, std::size_t elements);
  bool needs_mean_only() const override { return false; }
  bool needs_norms() const override { return true; }

 protected:
  void prepare(const RoundUpdates& updates) override;
  void apply(std::size_t, std::span<float> global, std::span<const double> mean) override {
    add(server_rate(1), mean, global);
  }
};

}  // namespace conclave
