#include "federated/strategies/strategy.h"

#include <omp.h>

#include <catch2/catch.hpp>
#include <cmath>
#include <limits>

#include "core/error.h"
#include "federated/strategies/round.h"
#include "federated/strategies/tiles.h"
#include "tests/core/values.h"
#include "tests/data/temporary_directory.h"
#include "tests/federated/strategy_fixture.h"

namespace conclave {
namespace {

using Catch::Matchers::Contains;

constexpr std::size_t kUpdateElements = 40'000;  // enough for several threads
constexpr float kMost = std::numeric_limits<float>::max();

StrategyOptions options_of(const std::string& name) { return {.name = name, .sites = 9, .norm_bound = 50}; }

TEST_CASE("fedavg: the result is the weighted mean of the sites' models") {
  const TrialRound round(7, kUpdateElements);
  const auto before = random_floats(kUpdateElements, 500);
  const auto strategy = make_strategy({}, kUpdateElements);
  auto global = before;
  round.run(*strategy, global);
  std::vector<double> expected(kUpdateElements);
  for (std::size_t j = 0; j < kUpdateElements; ++j) expected[j] = before[j] + round.mean(j);
  CHECK(distance(Tensor::of<float>({kUpdateElements}, global),
                 Tensor::of<double>({kUpdateElements}, expected)) < 1e-7);  // one rounding
  CHECK(strategy->traits().needs_mean_only);

  // McMahan et al. 2017, algorithm 1: 600 examples at one site, 200 at each of two others
  TrialRound three{1, 2, 6};
  three.weights = {600, 200, 200};
  std::vector<float> x{0.5f};
  three.run(*make_strategy({.server_rate = 0.5}, 1), x);
  CHECK(x[0] == Approx(0.5 + 0.5 * (0.6 * 1 + 0.2 * 2 + 0.2 * 6)));
}

TEST_CASE("strategies: a round's rate scales server_rate") {
  const std::string name = GENERATE("fedavg", "fedadam", "norm_bound", "median");
  const TrialRound round(3, 100);
  const auto before = random_floats(100, 1);
  const auto moved = [&](double rate) {
    const auto strategy = make_strategy({.name = name, .server_rate = 0.5, .norm_bound = 100}, 100);
    auto x = before;
    round.run(*strategy, x, 100, {.weights = round.weights, .rate = rate});
    return x;
  };
  const auto whole = moved(1), quarter = moved(0.25);
  for (std::size_t j = 0; j < 100; ++j)
    CHECK(quarter[j] - before[j] == Approx(0.25 * (whole[j] - before[j])).margin(1e-6));
  CHECK(moved(0) == before);

  CHECK(rate_of_round(Schedule::Kind::constant, 9, 10) == 1);
  CHECK(rate_of_round(Schedule::Kind::linear, 0, 4) == 1);
  CHECK(rate_of_round(Schedule::Kind::linear, 3, 4) == Approx(0.25));
  CHECK(rate_of_round(Schedule::Kind::cosine, 2, 4) == Approx(0.5));
}

TEST_CASE("fedprox: aggregates as fedavg, and passes its coefficient to sites") {
  const TrialRound round(5, 100);
  const auto averaging = make_strategy({}, 100),
             strategy = make_strategy({.name = "fedprox", .proximal = 0.3}, 100);
  auto a = random_floats(100, 1), b = a;
  round.run(*averaging, a);
  round.run(*strategy, b);
  CHECK(a == b);
  CHECK(strategy->site_rules().proximal == 0.3);
  CHECK(averaging->site_rules().proximal == 0);
}

TEST_CASE("the adaptive strategies follow algorithm 2 of Reddi et al.") {
  const std::string name = GENERATE("fedadam", "fedyogi", "fedadagrad");
  constexpr std::size_t kCount = 3000;
  const double eta = 0.05, b1 = 0.8, b2 = 0.95, tau = 0.01;
  const auto strategy =
      make_strategy({.name = name, .server_rate = eta, .beta1 = b1, .beta2 = b2, .adaptivity = tau}, kCount);
  auto global = random_floats(kCount, 400);
  std::vector<double> x(global.begin(), global.end()), m(kCount), v(kCount, tau * tau);
  for (std::uint32_t t = 0; t < 6; ++t) {
    TrialRound round(4, kCount, t);
    for (auto& change : round.changes)  // small changes after large ones, which Yogi treats differently
      for (float& value : change) value *= t < 3 ? 1.0f : 0.01f;
    round.run(*strategy, global);
    for (std::size_t j = 0; j < kCount; ++j) {
      const double delta = round.mean(j), square = delta * delta;
      m[j] = b1 * m[j] + (1 - b1) * delta;
      const double sign = v[j] > square ? 1 : v[j] < square ? -1 : 0;
      v[j] = name == "fedadam"   ? b2 * v[j] + (1 - b2) * square
             : name == "fedyogi" ? v[j] - (1 - b2) * square * sign
                                 : v[j] + square;
      x[j] += eta * m[j] / (std::sqrt(v[j]) + tau);
    }
  }
  CHECK(distance(Tensor::of<float>({kCount}, global), Tensor::of<double>({kCount}, x)) < 2e-6);
}

TEST_CASE("scaffold: model and control variate follow eq. 5") {
  constexpr std::size_t kCount = 3000;
  const auto strategy = make_strategy({.name = "scaffold", .server_rate = 0.5, .sites = 12}, kCount);
  REQUIRE(strategy->vectors() == 2);
  CHECK(strategy->site_rules().control_variate);
  CHECK(strategy->traits().needs_mean_only);
  const TrialRound round(3, 2 * kCount);
  const auto before = random_floats(2 * kCount, 99);
  auto global = before;
  round.run(*strategy, global);
  std::vector<double> expected(2 * kCount);
  for (std::size_t j = 0; j < 2 * kCount; ++j) {
    const double rate = j < kCount ? 0.5 : 3.0 / 12;  // of the unweighted mean
    const double mean = (round.changes[0][j] + round.changes[1][j] + round.changes[2][j]) / 3.0;
    expected[j] = before[j] + rate * mean;
  }
  CHECK(distance(Tensor::of<float>({2 * kCount}, global), Tensor::of<double>({2 * kCount}, expected)) < 1e-7);

  SECTION("one update may be the mean of many sites") {
    TrialRound masked(1, 2 * kCount);
    auto x = before;
    masked.run(*strategy, x, kCount, {.weights = masked.weights, .sites = 6});
    CHECK(x[kCount] == Approx(before[kCount] + 0.5 * masked.mean(kCount)));
  }
  SECTION("sites that were taken off the federation's list are no more than all of them") {
    TrialRound masked(1, 2 * kCount);
    auto x = before;
    masked.run(*strategy, x, kCount, {.weights = masked.weights, .sites = 13});
    CHECK(x[kCount] == Approx(before[kCount] + masked.mean(kCount)));
  }
}

// Sites of different curvature drift towards their own optima in K local steps. f_i = a_i / 2 (y - b_i)^2.
TEST_CASE("scaffold: finds the optimum although sites drift, unlike fedavg") {
  struct Site {
    double curvature, optimum, control = 0;
  };
  const auto train = [](const std::string& name) {
    std::vector<Site> sites{{1, -1}, {10, 2}, {4, 0.5}};
    const auto strategy = make_strategy({.name = name, .sites = 3}, 1);
    std::vector<float> global(strategy->vectors());
    constexpr int kSteps = 10;
    constexpr double kRate = 0.05;
    for (int t = 0; t < 200; ++t) {
      TrialRound round(std::vector<float>(3));
      for (std::size_t i = 0; i < 3; ++i) {
        Site& site = sites[i];
        const double x = global[0], c = global.size() > 1 ? global[1] : 0;
        double y = x;
        for (int k = 0; k < kSteps; ++k)
          y -= kRate * (site.curvature * (y - site.optimum) - site.control + c);
        round.changes[i] = {static_cast<float>(y - x)};
        if (global.size() == 1) continue;
        const double control = site.control - c + (x - y) / (kSteps * kRate);
        round.changes[i].push_back(static_cast<float>(control - site.control));
        site.control = control;
      }
      round.run(*strategy, global);
    }
    return static_cast<double>(global[0]);
  };
  const double best = (1 * -1 + 10 * 2 + 4 * 0.5) / 15.0;
  CHECK(train("scaffold") == Approx(best).margin(1e-5));
  CHECK(std::abs(train("fedavg") - best) > 0.2);
}

TEST_CASE("fedbuff: an update has the factor 1 / sqrt(1 + staleness)") {
  const auto strategy = make_strategy({.name = "fedbuff", .buffer = 3}, 1);
  CHECK(strategy->buffer_size() == 3);
  CHECK(make_strategy({}, 1)->buffer_size() == 0);
  CHECK_FALSE(strategy->traits().needs_mean_only);
  const TrialRound round(std::vector<float>{1, 10, 100});
  const std::vector<double> staleness{0, 3, 15};
  std::vector<float> x{0};
  round.run(*strategy, x, 1, {.weights = round.weights, .staleness = staleness});
  CHECK(x[0] == Approx((1.0 + 10 / 2.0 + 100 / 4.0) / 3));
}

TEST_CASE("strategies: results do not depend on blocks or threads") {
  const std::string name = GENERATE(from_range(own_strategies()));
  CAPTURE(name);
  const int threads = omp_get_max_threads();
  const auto train = [&](std::size_t block, int on) {
    omp_set_num_threads(on);
    const auto strategy = make_strategy(options_of(name), kUpdateElements);
    auto global = random_floats(strategy->vectors() * kUpdateElements, 3);
    for (std::uint32_t t = 0; t < 2; ++t) {
      const TrialRound round(5, global.size(), t);
      round.run(*strategy, global, block, round.updates());
    }
    omp_set_num_threads(threads);
    return global;
  };
  const auto whole = train(kUpdateElements, 2);
  CHECK((train(kUpdateElements, 1) == whole));  // extra parentheses: a failure does not print all elements
  CHECK((train(1111, 2) == whole));
}

TEST_CASE("strategies: a restored state continues with the same bits") {
  const std::string name = GENERATE("fedadam", "fedyogi", "fedadagrad");
  constexpr std::size_t kCount = 500;
  const TemporaryDirectory folder;
  StrategyOptions in_files = options_of(name);
  in_files.folder = folder.path();
  const auto strategy = make_strategy(options_of(name), kCount), restored = make_strategy(in_files, kCount);
  auto global = random_floats(kCount, 3);
  for (std::uint32_t t = 0; t < 3; ++t) TrialRound(4, kCount, t).run(*strategy, global);
  std::size_t vectors = 0;
  for (const auto& [vector, values] : strategy->state()) {
    CHECK(values.size() == kCount);
    for (const auto& [other, restore] : restored->state())
      if (other == vector) std::ranges::copy(values, restore.begin()), ++vectors;
  }
  restored->give_back();
  CHECK(vectors == 2);
  auto after = global, fresh = global;
  const TrialRound next(4, kCount, 9);
  next.run(*make_strategy(options_of(name), kCount), fresh);
  next.run(*strategy, global);
  next.run(*restored, after);
  CHECK(after == global);
  CHECK(fresh != global);
}

TEST_CASE("strategies: finite updates give finite results in all rounds") {
  const std::string name = GENERATE(from_range(own_strategies()));
  CAPTURE(name);
  const auto strategy = make_strategy(options_of(name), 2);
  std::vector<float> global(2 * strategy->vectors(), kMost);
  TrialRound huge(3, global.size());
  for (auto& change : huge.changes) std::ranges::fill(change, kMost);
  for (auto& weight : huge.weights) weight = 1e308;  // their sum is infinite
  for (int t = 0; t < 3; ++t) huge.run(*strategy, global);
  for (const float value : global) CHECK(std::isfinite(value));
  for (auto& change : huge.changes) std::ranges::fill(change, -kMost);
  for (int t = 0; t < 3; ++t) huge.run(*strategy, global);
  for (const float value : global) CHECK(std::isfinite(value));
  for (const auto& [vector, values] : strategy->state())
    for (const float value : values) CHECK(std::isfinite(value));
}

TEST_CASE("a squared norm is finite exactly where all values are") {
  auto values = random_floats(1003, 1);
  double sum = 0;
  for (const float value : values) sum += static_cast<double>(value) * value;
  CHECK(squared_norm(values) == Approx(sum).epsilon(1e-14));
  CHECK(squared_norm({}) == 0);
  std::ranges::fill(values, kMost);
  CHECK(std::isfinite(squared_norm(values)));
  for (const std::size_t at : {0, 500, 1002})
    for (const float bad : {std::numeric_limits<float>::infinity(), -std::numeric_limits<float>::infinity(),
                            std::numeric_limits<float>::quiet_NaN()}) {
      auto damaged = values;
      damaged[at] = bad;
      CHECK_FALSE(std::isfinite(squared_norm(damaged)));
    }
}

TEST_CASE("strategies: a block's weights replace the round's, and zeros change nothing") {
  const std::string name = GENERATE(from_range(own_strategies()));
  CAPTURE(name);
  const auto strategy = make_strategy(options_of(name), 1);
  TrialRound round(std::vector<float>(3));
  for (auto& change : round.changes) change.assign(strategy->vectors(), 1.0f);
  const auto norms = round.norms();
  strategy->begin_round({.weights = round.weights, .norms = norms});
  std::vector<float> x{5};
  const std::vector<double> none(3), first{4, 0, 0};
  strategy->aggregate({0, x, round.block(0, 1), none});
  CHECK(x[0] == 5);
  const auto fresh = make_strategy(options_of(name), 1);
  for (const auto& [vector, values] : fresh->state())
    for (const auto& [other, mine] : strategy->state())
      if (vector == other) CHECK(values[0] == mine[0]);
  round.changes[1][0] = round.changes[2][0] = 1e6f;  // from sites without weight in this block
  strategy->aggregate({0, x, round.block(0, 1), first});
  CHECK(x[0] > 5);
  CHECK(x[0] <= 6);
}

TEST_CASE("strategies: impossible values are refused with the update's number") {
  const auto strategy = make_strategy({.name = "fedbuff"}, 4);
  const auto begin = [&](std::vector<double> weights, std::vector<double> staleness = {}) {
    strategy->begin_round({.weights = weights, .staleness = staleness});
  };
  const double nan = std::nan("");
  CHECK_THROWS_WITH(begin({}), Contains("without updates"));
  CHECK_THROWS_WITH(begin({1, nan}), Contains("update 1: weight nan"));
  CHECK_THROWS_WITH(begin({1, -1}), Contains("update 1: weight -1"));
  CHECK_THROWS_WITH(begin({0, 0}), Contains("all 2 updates have weight 0"));
  CHECK_THROWS_WITH(begin({1, 1}, {0}), Contains("staleness of 1 updates, expected those of 2"));
  CHECK_THROWS_WITH(begin({1, 1}, {0, -2}), Contains("update 1: staleness -2"));
  const auto bounded = make_strategy(options_of("norm_bound"), 4);
  CHECK_THROWS_WITH(bounded->begin_round({.weights = std::vector<double>{1, 2}}),
                    Contains("norm of 0 updates"));

  begin({1, 1});
  std::vector<float> x(4);
  const TrialRound two(2, 8), three(3, 8);
  CHECK_THROWS_WITH(strategy->aggregate({0, x, three.block(0, 4)}), Contains("3 updates in a round of 2"));
  CHECK_THROWS_WITH(strategy->aggregate({0, x, two.block(0, 3)}), Contains("3 elements in a block of 4"));
  CHECK_THROWS_WITH(strategy->aggregate({1, x, two.block(1, 4)}), Contains("elements 1 to 5 of 4"));
  const auto scaffold = make_strategy(options_of("scaffold"), 4);
  scaffold->begin_round(two.updates());
  CHECK_THROWS_WITH(scaffold->aggregate({1, x, two.block(1, 4)}), Contains("of two vectors of 4"));
}

TEST_CASE("strategies: invalid options are refused") {
  const auto made = [](const StrategyOptions& options) { make_strategy(options, 10); };
  CHECK_THROWS_WITH(made({.name = "fedavrg"}),
                    Contains("no kind of strategy is named 'fedavrg'") && Contains("fedavg"));
  CHECK_THROWS_WITH(made({.server_rate = -1}), Contains("'fedavg'") && Contains("server_rate -1"));
  CHECK_THROWS_WITH(made({.name = "fedprox", .proximal = -1}), Contains("proximal -1"));
  CHECK_THROWS_WITH(made({.name = "fedadam", .beta1 = 1}), Contains("beta1 1"));
  CHECK_THROWS_WITH(made({.name = "fedyogi", .adaptivity = 0}), Contains("adaptivity 0"));
  CHECK_THROWS_WITH(made({.name = "scaffold"}), Contains("sites 0"));
  CHECK_THROWS_WITH(made({.name = "fedbuff", .buffer = 0}), Contains("buffer 0"));
  CHECK_THROWS_WITH(made({.name = "trimmed_mean", .trimmed = 0.6}), Contains("trimmed 0.6"));
  CHECK_THROWS_WITH(made({.name = "norm_bound"}), Contains("norm_bound 0"));
  CHECK_THROWS_WITH(make_strategy({}, 0), Contains("without elements"));
}

struct KeepsFirst : Strategy {
  using Strategy::Strategy;
  void prepare(const RoundUpdates&) override {}
  void aggregate_block(const Block& block) override { block.global[0] += block.updates[0][0]; }
};
CONCLAVE_REGISTER_STRATEGY("test_keeps_first", KeepsFirst);

TEST_CASE("strategies: what a kind needs is known without making one") {
  CHECK(strategy_traits("fedadam").works_on_sums());
  CHECK(strategy_traits("scaffold").needs_mean_only);
  for (const char* kind : {"scaffold", "fedbuff", "median", "norm_bound", "test_keeps_first"})
    CHECK_FALSE(strategy_traits(kind).works_on_sums());
  CHECK(strategy_traits("fedprox").rules({.proximal = 0.3}).proximal == 0.3);
  CHECK(strategy_traits("fedavg").rules({.proximal = 0.3}).proximal == 0);
  CHECK(strategy_traits("scaffold").rules({}).control_variate);
  CHECK_THROWS_WITH(strategy_traits("fedavrg"), Contains("no kind of strategy is named 'fedavrg'"));
  const StrategyTraits both{.asynchronous = true, .control_variate = true};
  CHECK_THROWS_WITH(StrategyRegistration("test_both", {}, both), Contains("need synchronous rounds"));
}

TEST_CASE("strategies: a registered strategy is found by its name") {
  const auto strategy = make_strategy({.name = "test_keeps_first"}, 1);
  CHECK(strategy->name() == "test_keeps_first");
  std::vector<float> x{1};
  TrialRound{2, 50}.run(*strategy, x);
  CHECK(x[0] == 3);
}

}  // namespace
}  // namespace conclave
