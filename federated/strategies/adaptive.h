// Adaptive optimizers on the coordinator (Reddi et al. 2021, algorithm 2): the mean of the changes serves as
// a gradient. As in the paper, Adam's first steps are not corrected for bias; v starts at tau^2.
//
//   m = beta1 m + (1 - beta1) Delta
//   v = v + Delta^2                                   FedAdagrad
//   v = v - (1 - beta2) Delta^2 sign(v - Delta^2)     FedYogi
//   v = beta2 v + (1 - beta2) Delta^2                 FedAdam
//   x = x + eta m / (sqrt(v) + tau)
#pragma once

#include "core/mapped_vector.h"
#include "federated/strategies/mean_strategy.h"

namespace conclave {

class AdaptiveServer final : public MeanStrategy {
 public:
  enum class Rule : std::uint8_t { adam, yogi, adagrad };
  /// The default of `server_rate` is 0.01.
  AdaptiveServer(Rule rule, const StrategyOptions& options, std::size_t elements);

  std::vector<std::pair<std::string, std::span<float>>> state() override {
    return {{"first_moment", first_.values()}, {"second_moment", second_.values()}};
  }
  void give_back() override { first_.give_back(), second_.give_back(); }

 protected:
  void apply(std::size_t offset, std::span<float> global, std::span<const double> mean) override;

 private:
  Rule rule_;
  MappedVector first_, second_;
};

}  // namespace conclave
