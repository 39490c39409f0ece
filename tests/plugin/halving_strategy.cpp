// A plug-in: a strategy that moves the model by half of the updates' mean.
#include "federated/strategies/mean_strategy.h"

namespace {

using namespace conclave;

struct HalvingStrategy : MeanStrategy {
  using MeanStrategy::MeanStrategy;
  void apply(std::size_t /*offset*/, std::span<float> global, std::span<const double> mean) override {
    add(server_rate(0.5), mean, global);
  }
};

CONCLAVE_REGISTER_STRATEGY("halving", HalvingStrategy);

}  // namespace
