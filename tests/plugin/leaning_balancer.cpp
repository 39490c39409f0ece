// A plug-in: a balancer whose bias leans to the experts with fewer rows than the mean.
#include "parallel/moe/balancer.h"

namespace {

using namespace conclave;

struct LeaningBalancer : Balancer {
  LeaningBalancer(Index experts, const BalancerOptions& options)
      : bias(Tensor::zeros({experts})), rate(static_cast<float>(options.own.number("rate", 0.001))) {}
  kernels::Selection selection() const override { return {bias, {}}; }
  std::vector<State> state() const override { return {{"selection_bias", bias, false}}; }
  void update(const ExpertSignals& signals) override {
    const double mean = mean_load(signals.load);
    for (std::size_t e = 0; e < signals.load.size(); ++e) {
      const double excess = static_cast<double>(signals.load[e]) - mean;
      if (excess != 0) bias.span<float>()[e] += excess > 0 ? -rate : rate;
    }
  }

  Tensor bias;
  float rate;
};

CONCLAVE_REGISTER_BALANCER("leaning", LeaningBalancer);

}  // namespace
