#include "parallel/moe/balancer.h"

#include <algorithm>
#include <numeric>

#include "core/registry.h"
#include "parallel/moe/grad_norm.h"

namespace conclave {
namespace {

class NoBalancer final : public Balancer {
 public:
  bool follows_loads() const override { return false; }
};

class AuxLossBalancer final : public Balancer {
 public:
  explicit AuxLossBalancer(double coefficient) : coefficient_(coefficient) {}

  bool follows_loads() const override { return false; }
  bool has_gradient() const override { return true; }
  void probability_gradient(std::span<const Index> load, Index tokens,
                            std::span<double> gradient) const override {
    // L = a E sum_e f_e mean_t p_te, with f_e a share of all choices that is constant for the gradient
    const double choices =
        std::max<double>(1, static_cast<double>(std::accumulate(load.begin(), load.end(), Index{})));
    const double scale =
        coefficient_ * static_cast<double>(load.size()) / std::max<double>(1, static_cast<double>(tokens));
    for (std::size_t e = 0; e < load.size(); ++e)
      gradient[e] = scale * static_cast<double>(load[e]) / choices;
  }

 private:
  double coefficient_;
};

class BiasBalancer final : public Balancer {
 public:
  BiasBalancer(Index experts, double rate)
      : bias_(Tensor::zeros({experts})), rate_(static_cast<float>(rate)) {}

  kernels::Selection selection() const override { return {bias_, {}}; }
  std::vector<State> state() const override { return {{"selection_bias", bias_, false}}; }
  void update(const ExpertSignals& signals) override {
    const auto load = signals.load;
    const double mean = mean_load(load);
    const auto bias = bias_.span<float>();
    for (std::size_t e = 0; e < load.size(); ++e) {
      const double excess = static_cast<double>(load[e]) - mean;
      if (excess != 0) bias[e] += excess > 0 ? -rate_ : rate_;
    }
  }

 private:
  Tensor bias_;
  float rate_;
};

Registry<BalancerFactory>& balancer_registry() {
  static Registry<BalancerFactory> registry(
      "balancer", "balancers",
      {{"none", [](Index, const BalancerOptions&) { return std::make_unique<NoBalancer>(); }},
       {"aux_loss",
        [](Index, const BalancerOptions& options) {
          return std::make_unique<AuxLossBalancer>(options.aux_coefficient);
        }},
       {"bias",
        [](Index experts, const BalancerOptions& options) {
          return std::make_unique<BiasBalancer>(experts, options.bias_rate);
        }},
       {"grad_norm", [](Index experts, const BalancerOptions& options) {
          return std::make_unique<GradNormBalancer>(experts, options);
        }}});
  return registry;
}

}  // namespace

void Balancer::probability_gradient(std::span<const Index>, Index, std::span<double> gradient) const {
  std::ranges::fill(gradient, 0.0);
}

std::unique_ptr<Balancer> make_balancer(const std::string& name, Index experts,
                                        const BalancerOptions& options) {
  return balancer_registry().make(name, experts, options);
}

BalancerRegistration::BalancerRegistration(const std::string& name, BalancerFactory factory, const char*) {
  register_kind([=](const std::string& plugin) { balancer_registry().add(name, factory, plugin); });
}

void expect_balancer_kind(const std::string& name) { balancer_registry().find(name); }

std::vector<std::string> balancer_kinds() { return balancer_registry().names(); }

double mean_load(std::span<const Index> load) {
  return static_cast<double>(std::accumulate(load.begin(), load.end(), Index{})) /
         static_cast<double>(load.size());
}

double utilization(std::span<const Index> load) {
  if (load.empty()) return 1.0;
  const Index most = std::ranges::max(load);
  if (most == 0) return 1.0;
  return mean_load(load) / static_cast<double>(most);
}

}  // namespace conclave
