#include "federated/privacy/accountant.h"

#include <catch2/catch.hpp>
#include <cmath>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "federated/privacy/calibration.h"
#include "federated/privacy/privacy_loss.h"
#include "federated/privacy/rdp.h"

namespace conclave {
namespace {

// Reference values, which make_privacy.py computed with Google's dp-accounting.
const nlohmann::json& reference() {
  static const nlohmann::json all = [] {
    std::ifstream file(CONCLAVE_FIXTURES "/privacy.json");
    require(file.good(), "privacy.json is missing; tests/fixtures/make_privacy.py writes it");
    return nlohmann::json::parse(file);
  }();
  return all;
}

PrivacyEvent event_of(const nlohmann::json& json) {
  return {json.at("noise"), json.at("rate"), json.at("steps")};
}

double epsilon_of(const std::string& accountant, const std::vector<PrivacyEvent>& events, double delta) {
  const auto spent = make_accountant(accountant);
  for (const PrivacyEvent& event : events) spent->compose(event);
  return spent->epsilon(delta);
}

double normal_cdf(double x) { return std::erfc(-x * M_SQRT1_2) / 2; }

// Balle and Wang 2018, theorem 8
double gaussian_delta(double noise, double epsilon) {
  return normal_cdf(0.5 / noise - epsilon * noise) -
         std::exp(epsilon) * normal_cdf(-0.5 / noise - epsilon * noise);
}

}  // namespace

TEST_CASE("accountants agree with dp-accounting on 200 series, above its lower bounds", "[unsanitized]") {
  const nlohmann::json& cases = reference().at("cases");
  REQUIRE(cases.size() == 200);
  for (const std::string accountant : {"rdp", "pld"})
    for (const nlohmann::json& known : cases) {
      INFO(accountant << " of " << known);
      const double epsilon = epsilon_of(accountant, {event_of(known)}, known.at("delta"));
      CHECK(epsilon == Approx(known.at(accountant).get<double>()).epsilon(0.005));
      CHECK(epsilon >= known.at("lower").get<double>());
    }
}

TEST_CASE("delta of an epsilon agrees with dp-accounting") {
  const auto& known = reference().at("known");
  const auto accountant = make_accountant("pld");
  accountant->compose(event_of(known));
  const double delta = accountant->delta(known.at("epsilon"));
  CHECK(delta == Approx(4.2435e-6).epsilon(0.0005));  // a published value
  CHECK(delta == Approx(known.at("delta").get<double>()).epsilon(0.0005));
  CHECK(accountant->epsilon(delta) == Approx(1.0).epsilon(0.0005));
}

TEST_CASE("accountants compose different releases in any order") {
  const auto& known = reference().at("composed");
  const PrivacyEvent first = event_of(known.at("events")[0]), second = event_of(known.at("events")[1]);
  const double delta = known.at("delta"), epsilon = epsilon_of("pld", {first, second}, delta);
  CHECK(epsilon == Approx(known.at("epsilon").get<double>()).epsilon(0.001));
  CHECK(epsilon_of("pld", {second, first}, delta) == Approx(epsilon).epsilon(1e-9));
  // Releases composed one at a time count as the same number composed at once.
  std::vector<PrivacyEvent> single(500, {first.noise_multiplier, first.sampling_rate, 1});
  single.push_back(second);
  CHECK(epsilon_of("pld", single, delta) == epsilon);
  CHECK(epsilon_of("rdp", {first, second}, delta) > epsilon);
}

TEST_CASE("pld: without sampling, delta is that of the Gaussian mechanism") {
  for (const double noise : {0.3, 1.0, 5.0, 40.0})
    for (const double epsilon : {0.01, 0.3, 1.0, 4.0}) {
      const double exact = gaussian_delta(noise, epsilon);
      // Four releases with twice the noise are equivalent to one.
      for (const PrivacyEvent& event : {PrivacyEvent{noise, 1, 1}, PrivacyEvent{2 * noise, 1, 4}}) {
        INFO(noise << " " << epsilon << " " << event.steps);
        if (exact < 1e-250) continue;
        const auto accountant = make_accountant("pld");
        accountant->compose(event);
        const double delta = accountant->delta(epsilon);
        CHECK(delta >= exact * (1 - 1e-6));
        CHECK(delta <= exact * 1.002);
      }
    }
}

TEST_CASE("pld: rounding losses to a grid keeps delta at the grid's points") {
  const double noise = 0.9, rate = 0.05, interval = 0.02;
  const auto [remove, add] = sampled_gaussian_losses(noise, rate, interval, 8);
  for (const PrivacyLoss& loss : {remove, add}) {
    double own = loss.infinite, other = 0;
    for (std::size_t i = 0; i < loss.probabilities.size(); ++i) {
      const double value = static_cast<double>(loss.lowest + static_cast<std::int64_t>(i)) * interval;
      own += loss.probabilities[i];
      other += loss.probabilities[i] * std::exp(-value);
    }
    CHECK(own == Approx(1).epsilon(1e-12));
    CHECK(other == Approx(1).epsilon(1e-9));
  }
  // delta(epsilon) = P(x > t) - e^epsilon Q(x > t), where t is the x of loss epsilon
  const double epsilon = 30 * interval;
  const double t = noise * noise * std::log((std::expm1(epsilon) + rate) / rate) + 0.5;
  const double q = normal_cdf(-t / noise), p = (1 - rate) * q + rate * normal_cdf((1 - t) / noise);
  double delta = remove.infinite;
  for (std::size_t i = 0; i < remove.probabilities.size(); ++i) {
    const double value = static_cast<double>(remove.lowest + static_cast<std::int64_t>(i)) * interval;
    if (value > epsilon) delta -= remove.probabilities[i] * std::expm1(epsilon - value);
  }
  CHECK(delta == Approx(p - std::exp(epsilon) * q).epsilon(1e-9));
}

TEST_CASE("rdp: at integer orders the divergence equals the closed form") {
  for (const double noise : {0.6, 1.0, 7.0})
    for (const double rate : {1e-4, 0.02, 0.6})
      for (const int order : {2, 3, 17, 100}) {
        double sum = 0;  // sum over k of binomial(order, k) (1 - q)^(order - k) q^k e^((k^2 - k) / 2 s^2)
        for (int k = 0; k <= order; ++k)
          sum += std::exp(std::lgamma(order + 1) - std::lgamma(k + 1) - std::lgamma(order - k + 1) +
                          (order - k) * std::log1p(-rate) + k * std::log(rate) +
                          (k * k - k) / (2 * noise * noise));
        INFO(noise << " " << rate << " " << order);
        if (!std::isfinite(sum)) continue;
        CHECK(sampled_gaussian_divergence(noise, rate, order) ==
              Approx(std::log(sum) / (order - 1)).epsilon(1e-9).margin(1e-13));
      }
}

TEST_CASE("accountants: no releases spend nothing and no noise spends everything") {
  for (const std::string name : {"rdp", "pld"}) {
    const auto accountant = make_accountant(name);
    accountant->compose({1, 0, 10});
    accountant->compose({1, 0.5, 0});
    CHECK(accountant->epsilon(1e-5) == 0);
    CHECK(accountant->delta(1) == 0);
    accountant->compose({0, 0.5, 1});
    CHECK(accountant->epsilon(1e-5) == std::numeric_limits<double>::infinity());
    CHECK(accountant->delta(1) == 1);
  }
}

TEST_CASE("accountants: extreme events give valid bounds, and pld is at most rdp", "[unsanitized]") {
  for (const double noise : {0.05, 1.0, 1e3, 1e6})
    for (const double rate : {1e-6, 0.3, 1.0})
      for (const std::int64_t steps : {1, 100'000}) {
        const double delta = 1e-6;
        const double rdp = epsilon_of("rdp", {{noise, rate, steps}}, delta);
        const double pld = epsilon_of("pld", {{noise, rate, steps}}, delta);
        INFO(noise << " " << rate << " " << steps << ": " << rdp << " " << pld);
        CHECK(pld >= 0);
        CHECK(pld <= rdp);
        if (rate == 1) {
          const double of_one = noise / std::sqrt(static_cast<double>(steps));
          if (pld < 500) CHECK(gaussian_delta(of_one, pld) <= delta * (1 + 1e-6));
        }
      }
}

TEST_CASE("accountants: with very little noise epsilon is huge and about right") {
  // The losses of 12 releases are distributed as N(mu^2 / 2, mu^2), where mu^2 = 12 / noise^2. For delta =
  // 1e-5, epsilon is between 3 and 6 standard deviations above their mean.
  for (const double noise : {1e-6, 1e-3, 0.01, 0.02, 0.05, 0.2}) {
    const double mu = std::sqrt(12.0) / noise;
    for (const std::string accountant : {"rdp", "pld"}) {
      INFO(accountant << " at noise " << noise);
      const double epsilon = epsilon_of(accountant, {{noise, 1, 12}}, 1e-5);
      CHECK(epsilon > mu * mu / 2 + 3 * mu);
      // rdp is too large by a percent, because its orders begin a little above 1.
      CHECK(epsilon < 1.012 * (mu * mu / 2 + 6 * mu));
    }
    const auto spent = make_accountant("pld");
    spent->compose({noise, 1, 12});
    CHECK(spent->delta(1) > 0.99 * gaussian_delta(1 / mu, 1));
    CHECK(spent->delta(1) <= 1);
  }
}

TEST_CASE("accountants refuse invalid events, deltas and epsilons") {
  const auto accountant = make_accountant("pld");
  CHECK_THROWS_WITH(accountant->compose({-1, 0.5, 1}), Catch::Contains("noise multiplier of -1"));
  CHECK_THROWS_WITH(accountant->compose({1, 1.5, 1}), Catch::Contains("sampling rate of 1.5"));
  CHECK_THROWS_WITH(accountant->compose({1, 0.5, -1}), Catch::Contains("-1 steps"));
  CHECK_THROWS_WITH(accountant->compose({std::nan(""), 0.5, 1}), Catch::Contains("nan"));
  CHECK_THROWS_WITH(accountant->epsilon(0), Catch::Contains("delta 0"));
  CHECK_THROWS_WITH(accountant->epsilon(1), Catch::Contains("delta 1"));
  CHECK_THROWS_WITH(accountant->delta(-1), Catch::Contains("epsilon -1"));
  CHECK_THROWS_WITH(make_accountant("moments"), Catch::Contains("moments") && Catch::Contains("pld"));
}

TEST_CASE("calibration: the least noise and the most steps just meet the budget") {
  const PrivacyBudget budget{2, 1e-5};
  for (const std::string accountant : {"rdp", "pld"}) {
    const double noise = least_noise(budget, 0.02, 1500, accountant);
    CHECK(epsilon_of(accountant, {{noise, 0.02, 1500}}, budget.delta) <= budget.epsilon);
    CHECK(epsilon_of(accountant, {{noise * 0.999, 0.02, 1500}}, budget.delta) > budget.epsilon);
    const std::int64_t steps = most_steps(budget, 1.0, 0.02, accountant);
    CHECK(epsilon_of(accountant, {{1, 0.02, steps}}, budget.delta) <= budget.epsilon);
    CHECK(epsilon_of(accountant, {{1, 0.02, steps + 1}}, budget.delta) > budget.epsilon);
    const std::int64_t rest = most_steps(budget, 1.0, 0.02, accountant, {{1.0, 0.02, 100}});
    CHECK(rest == steps - 100);
  }
  CHECK(most_steps({0.1, 1e-5}, 1, 1, "pld") == 0);
  CHECK_THROWS_WITH(least_noise({0, 1e-5}, 1, 1, "pld"), Catch::Contains("epsilon 0"));
}

}  // namespace conclave
