// FedBuff (Nguyen et al. 2022, algorithm 1): asynchronous. A site may train on the model of any earlier
// round. Once a buffer of K updates is full, x += eta_g mean_i s(tau_i) Delta_i, where tau_i is the number of
// rounds that ended since the site of update i was sent its model. s(tau) = 1 / sqrt(1 + tau), as in the
// paper's experiments. The mean is over the weights without the factors s. So stale updates move the model
// less, while fresh ones do not move it more.
#pragma once

#include "federated/strategies/mean_strategy.h"

namespace conclave {

class FedBuff final : public MeanStrategy {
 public:
  static constexpr StrategyTraits kTraits{.asynchronous = true};
  /// The default of `server_rate`, eta_g, is 1.
  FedBuff(const StrategyOptions& options, std::size_t elements);

 protected:
  void prepare(const RoundUpdates& updates) override;
  void apply(std::size_t, std::span<float> global, std::span<const double> mean) override {
    add(server_rate(1), mean, global);
  }
};

}  // namespace conclave
