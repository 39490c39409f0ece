#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>

#include "tests/core/values.h"
#include "tests/federated/strategy_fixture.h"

namespace conclave {
namespace {

double of_one_element(const StrategyOptions& options, const TrialRound& round) {
  std::vector<float> x{0};
  round.run(*make_strategy(options, 1), x);
  return x[0];
}

TEST_CASE("median and trimmed_mean agree with sorting each element's values") {
  const std::size_t sites = GENERATE(1, 2, 3, 4, 5, 7, 8, 12, 16, 31, 64, 100, 257);
  CAPTURE(sites);
  constexpr std::size_t kCount = 200;  // not a whole number of tiles
  const TrialRound round(sites, kCount);
  std::vector<float> median(kCount), trimmed(kCount);
  round.run(*make_strategy({.name = "median"}, kCount), median);
  round.run(*make_strategy({.name = "trimmed_mean", .trimmed = 0.2}, kCount), trimmed);
  std::vector<double> medians(kCount), means(kCount);
  for (std::size_t j = 0; j < kCount; ++j) {
    std::vector<double> values;
    for (const auto& change : round.changes) values.push_back(change[j]);
    std::ranges::sort(values);
    medians[j] = (values[(sites - 1) / 2] + values[sites / 2]) / 2;
    const std::size_t cut = std::min((sites + 4) / 5, (sites - 1) / 2);
    double sum = 0;
    for (std::size_t i = cut; i < sites - cut; ++i) sum += values[i];
    means[j] = sum / static_cast<double>(sites - 2 * cut);
  }
  CHECK(distance(Tensor::of<float>({kCount}, median), Tensor::of<double>({kCount}, medians)) < 1e-7);
  CHECK(distance(Tensor::of<float>({kCount}, trimmed), Tensor::of<double>({kCount}, means)) < 1e-7);
}

TEST_CASE("median and trimmed_mean handle equal values and signed zeros") {
  CHECK(of_one_element({.name = "median"}, TrialRound{2, 2, 2, -5, 7}) == 2);
  CHECK(of_one_element({.name = "median"}, TrialRound{-0.0f, 0.0f, -0.0f, 3, -3}) == 0);
  CHECK(of_one_element({.name = "trimmed_mean", .trimmed = 0.25}, TrialRound{4, 1, 2, 3}) == 2.5);
  // A tenth of 30 sites is cut off at either end: 3.
  std::vector<float> values(30);
  for (std::size_t i = 0; i < 30; ++i) values[i] = static_cast<float>(i * i);
  double sum = 0;
  for (std::size_t i = 3; i < 27; ++i) sum += values[i];
  CHECK(of_one_element({.name = "trimmed_mean", .trimmed = 0.1}, TrialRound(values)) == Approx(sum / 24));
  // In floating point, 0.14 * 50 is above 7: still, seven are left out on each side.
  std::vector<float> squares(50);
  double middle = 0;
  for (std::size_t i = 0; i < 50; ++i) {
    squares[i] = static_cast<float>(i * i);
    if (i >= 7 && i < 43) middle += static_cast<double>(i * i);
  }
  CHECK(of_one_element({.name = "trimmed_mean", .trimmed = 0.14}, TrialRound(squares)) ==
        Approx(middle / 36));
}

TEST_CASE("one huge update moves robust strategies little and fedavg far") {
  const std::size_t sites = GENERATE(3, 10);
  std::vector<float> values(sites, 1.0f);
  for (std::size_t i = 0; i < sites; ++i) values[i] += 0.01f * static_cast<float>(i);
  values[1] = GENERATE(1e6f, -1e6f);
  TrialRound round(values);
  round.weights[1] = 1e12;  // it also claims to have almost all the data
  const auto result = [&](const std::string& name) {
    return of_one_element({.name = name, .norm_bound = 2}, round);
  };
  CHECK(std::abs(result("median") - 1) < 0.1);
  CHECK(std::abs(result("trimmed_mean") - 1) < 0.1);
  // The site with a large update moves the result by at most (1 + M) / n, where M is the norm bound.
  CHECK(std::abs(result("norm_bound") - 1) < 0.1 + 3 / static_cast<double>(sites));
  CHECK(std::abs(result("fedavg")) > 1e5);
}

TEST_CASE("norm_bound scales down updates above its bound and no others") {
  constexpr std::size_t kCount = 5000;
  TrialRound round(4, kCount);
  for (float& value : round.changes[1]) value *= 0.01f;
  for (float& value : round.changes[3]) value *= 1000;
  const double bound = 30;
  const auto norms = round.norms();
  REQUIRE(norms[0] > bound);
  REQUIRE(norms[1] < bound);
  std::vector<float> global(kCount);
  round.run(*make_strategy({.name = "norm_bound", .server_rate = 2, .norm_bound = bound}, kCount), global);
  std::vector<double> expected(kCount);
  for (std::size_t j = 0; j < kCount; ++j) {
    double sum = 0;
    for (std::size_t i = 0; i < 4; ++i) sum += round.changes[i][j] * std::min(1.0, bound / norms[i]);
    expected[j] = 2 * sum / 4;
  }
  CHECK(distance(Tensor::of<float>({kCount}, global), Tensor::of<double>({kCount}, expected)) < 1e-7);
}

}  // namespace
}  // namespace conclave
