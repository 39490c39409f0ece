// Norm bounding (Sun et al. 2019): an update whose norm is above M is scaled down to norm M,
//
//   x += eta mean_i Delta_i / max(1, |Delta_i| / M)
//
// so that one of n sites moves the model by eta M / n at most, whatever it sends. Every site counts once,
// because the number of examples that a site claims is as untrusted as its update.
#pragma once

#include "federated/strategies/mean_strategy.h"

namespace conclave {

class NormBound final : public MeanStrategy {
 public:
  static constexpr StrategyTraits kTraits{.needs_norms = true};
  /// options.norm_bound is M. The default of `server_rate`, eta, is 1.
  NormBound(const StrategyOptions& options, std::size_t elements);

 protected:
  void prepare(const RoundUpdates& updates) override;
  void apply(std::size_t, std::span<float> global, std::span<const double> mean) override {
    add(server_rate(1), mean, global);
  }
};

}  // namespace conclave
