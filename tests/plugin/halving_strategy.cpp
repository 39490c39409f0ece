// A plug-in: a strategy that moves the model by a fraction of the updates' mean, by default half of it.
#include "federated/strategies/mean_strategy.h"

namespace {

using namespace conclave;

struct HalvingStrategy : MeanStrategy {
  HalvingStrategy(const StrategyOptions& options, std::size_t elements)
      : MeanStrategy(options, elements), fraction(options.own.number("fraction", 0.5)) {}
  void apply(std::size_t /*offset*/, std::span<float> global, std::span<const double> mean) override {
    add(server_rate(fraction), mean, global);
  }

  double fraction;
};

CONCLAVE_REGISTER_STRATEGY("halving", HalvingStrategy);

}  // namespace
