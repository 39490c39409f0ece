#include <algorithm>
#include <catch2/catch.hpp>
#include <vector>

#include "core/kernels/gate.h"
#include "core/random.h"
#include "parallel/moe/balancer.h"
#include "tests/core/values.h"

namespace conclave {
namespace {

TEST_CASE("utilization is the mean load over the largest", "[balancer]") {
  CHECK(utilization(std::vector<Index>{5, 5, 5, 5}) == 1);
  CHECK(utilization(std::vector<Index>{20, 0, 0, 0}) == 0.25);
  CHECK(utilization(std::vector<Index>{6, 2, 4}) == Approx(4.0 / 6));
  CHECK(utilization(std::vector<Index>{0, 0}) == 1);  // no expert has more load than another
  CHECK(utilization(std::vector<Index>{}) == 1);
}

TEST_CASE("the bias of an expert falls with a load above the mean and rises below it", "[balancer]") {
  const auto balancer = make_balancer("bias", 4, {.bias_rate = 0.01});
  const Tensor bias = balancer->selection().bias;
  CHECK(distance(bias, Tensor::zeros({4})) == 0);
  balancer->update({std::vector<Index>{10, 2, 8, 8}, {}, {}});  // the mean is 7
  CHECK(distance(bias, Tensor::of<double>({4}, {-0.01, 0.01, -0.01, -0.01})) < 1e-8);
  balancer->update({std::vector<Index>{7, 7, 6, 8}, {}, {}});
  CHECK(distance(bias, Tensor::of<double>({4}, {-0.01, 0.01, 0, -0.02})) < 1e-8);
  CHECK_FALSE(balancer->has_gradient());
}

TEST_CASE("the bias moves a router that prefers some experts towards equal loads", "[balancer]") {
  constexpr Index kTokens = 400, kExperts = 6;
  const Tensor p = Tensor::empty({kTokens, kExperts});
  const RandomStream stream{.seed = 1, .step = 0, .tensor = 0};
  for (Index i = 0; i < p.numel(); ++i)  // expert 0 is by far the most probable, expert 5 the least
    p.data<float>()[i] =
        static_cast<float>((stream.uniform(static_cast<std::uint64_t>(i)) + 3 * (i % kExperts == 0)) /
                           (1.0 + static_cast<double>(i % kExperts)));
  const auto balancer = make_balancer("bias", kExperts, {.bias_rate = 0.004});
  const auto loads = [&] {
    const Tensor experts = Tensor::empty({kTokens, 2}, DType::i32), weights = Tensor::empty({kTokens, 2});
    kernels::top_k_gate(p, balancer->selection(), experts, weights);
    std::vector<Index> load(kExperts);
    for (const std::int32_t e : experts.span<std::int32_t>()) ++load[static_cast<std::size_t>(e)];
    return load;
  };
  const double before = utilization(loads());
  for (int step = 0; step < 1500; ++step) balancer->update({loads(), {}, {}});
  CHECK(before < 0.4);
  CHECK(utilization(loads()) > 0.85);
}

TEST_CASE("the auxiliary gradient is the derivative of a E sum_e f_e P_e, f constant", "[balancer]") {
  const auto balancer = make_balancer("aux_loss", 4, {.aux_coefficient = 0.3});
  REQUIRE(balancer->has_gradient());
  CHECK_FALSE(balancer->selection().bias.defined());
  const std::vector<Index> load{12, 3, 0, 9};
  constexpr Index kTokens = 12;
  const Tensor p = random_values({kTokens, 4}, 1);
  const auto loss = [&] {
    double sum = 0;
    for (Index t = 0; t < kTokens; ++t)
      for (Index e = 0; e < 4; ++e)
        sum += static_cast<double>(load[static_cast<std::size_t>(e)]) / 24 * p.data<double>()[t * 4 + e] /
               kTokens;
    return 0.3 * 4 * sum;
  };
  std::vector<double> gradient(4, -1);
  balancer->probability_gradient(load, kTokens, gradient);
  for (Index e = 0; e < 4; ++e) {
    double& element = p.data<double>()[5 * 4 + e];
    const double before = element, low = (element = before - 0.5, loss()),
                 high = (element = before + 0.5, loss());
    element = before;
    CHECK(gradient[static_cast<std::size_t>(e)] == Approx(high - low).margin(1e-12));
  }
}

TEST_CASE("an auxiliary gradient of an empty batch is finite", "[balancer]") {
  std::vector<double> gradient(3, -1);
  make_balancer("aux_loss", 3, {})->probability_gradient(std::vector<Index>{0, 0, 0}, 0, gradient);
  CHECK(gradient == std::vector<double>{0, 0, 0});
}

TEST_CASE("the balancer none has neither bias nor gradient", "[balancer]") {
  const auto balancer = make_balancer("none", 3, {});
  balancer->update({std::vector<Index>{9, 0, 0}, {}, {}});
  CHECK_FALSE(balancer->selection().bias.defined());
  CHECK_FALSE(balancer->has_gradient());
}

// Lets the expert with the most rows rest for a step.
class RestingBalancer final : public Balancer {
 public:
  RestingBalancer(Index experts, const BalancerOptions& options)
      : bias_(Tensor::zeros({experts})), rate_(static_cast<float>(options.bias_rate)) {}
  kernels::Selection selection() const override { return {bias_, {}}; }
  void update(const ExpertSignals& signals) override {
    bias_.zero();
    bias_.span<float>()[std::ranges::max_element(signals.load) - signals.load.begin()] = -rate_;
  }

 private:
  Tensor bias_;
  float rate_;
};

CONCLAVE_REGISTER_BALANCER("test_resting", RestingBalancer);

TEST_CASE("a balancer that is registered is made by its name, with the recipe's options", "[balancer]") {
  const auto balancer = make_balancer("test_resting", 3, {.bias_rate = 0.5});
  balancer->update({std::vector<Index>{2, 9, 4}, {}, {}});
  CHECK(distance(balancer->selection().bias, Tensor::of<double>({3}, {0, -0.5, 0})) == 0);
  CHECK(balancer->follows_loads());  // unless it says otherwise
  CHECK_FALSE(balancer->corrects_batches());
  CHECK_NOTHROW(expect_balancer_kind("test_resting"));
}

TEST_CASE("an unknown balancer is refused with the list of those there are", "[balancer]") {
  CHECK(balancer_kinds() ==
        std::vector<std::string>{"aux_loss", "bias", "grad_norm", "none", "test_resting"});
  CHECK_THROWS_WITH(make_balancer("switch", 4, {}),
                    "no kind of balancer is named 'switch'; there are: aux_loss, bias, grad_norm, none, "
                    "test_resting");
}

TEST_CASE("only gradient normalization corrects batches, and only two balancers ignore loads", "[balancer]") {
  for (const std::string name : {"none", "aux_loss", "bias", "grad_norm"}) {
    const auto balancer = make_balancer(name, 4, {});
    CHECK(balancer->corrects_batches() == (name == "grad_norm"));
    CHECK(balancer->follows_loads() == (name == "bias" || name == "grad_norm"));
  }
}

}  // namespace
}  // namespace conclave
