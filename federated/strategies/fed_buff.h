// FedBuff (Nguyen et al. 2022, algorithm 1): asynchronous. A site trains on the model of any earlier round;
// once a buffer of K updates is full, x += eta_g mean_i s(tau_i) Delta_i, where tau_i is how many rounds
// ended since update i's site was sent its model. s(tau) = 1 / sqrt(1 + tau) as the paper has it in its
// experiments: the mean is over the weights alone, so that stale updates move the model less, not fresh ones
// more.
#pragma once

#include "federated/strategies/mean_strategy.h"

namespace conclave {

class FedBuff final : public MeanStrategy {
 public:
  /// `server_rate` eta_g is 1 unless said otherwise.
  FedBuff(const StrategyOptions& options, std::size_t elements);
  bool needs_mean_only() const override { return false; }
  std::size_t buffer_size() const override { return static_cast<std::size_t>(options_.buffer); }

 protected:
  void prepare(const RoundUpdates& updates) override;
  void apply(std::size_t, std::span<float> global, std::span<const double> mean) override {
    add(server_rate(1), mean, global);
  }
};

}  // namespace conclave
