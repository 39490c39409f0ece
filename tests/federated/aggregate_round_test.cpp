#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <fstream>
#include <limits>

#include "core/error.h"
#include "core/mapped_vector.h"
#include "federated/strategies/round.h"
#include "tests/core/values.h"
#include "tests/data/temporary_directory.h"
#include "tests/federated/strategy_fixture.h"

namespace conclave {
namespace {

using Catch::Matchers::Contains;

std::vector<SiteUpdate> updates_of(const TrialRound& round) {
  std::vector<SiteUpdate> updates;
  for (std::size_t i = 0; i < round.changes.size(); ++i)
    updates.push_back(
        {.weight = round.weights[i], .read = [&round, i](std::size_t offset, std::span<float> out) {
           std::ranges::copy(std::span(round.changes[i]).subspan(offset, out.size()), out.begin());
         }});
  return updates;
}

TEST_CASE("aggregate_round: reading updates in blocks does not change any strategy's result") {
  const std::string name = GENERATE(from_range(own_strategies()));
  CAPTURE(name);
  constexpr std::size_t kCount = 5000;
  const std::vector<FlatParameter> model{{"weight", {kCount}}};
  const SharingPolicy policy(model, {});
  const StrategyOptions options{.name = name, .sites = 5, .norm_bound = 20};
  const auto whole = make_strategy(options, kCount), blocks = make_strategy(options, kCount);
  const TrialRound round(5, kCount * whole->vectors());
  auto expected = random_floats(round.changes[0].size(), 77), global = expected;
  round.run(*whole, expected);
  aggregate_round(*blocks, policy, updates_of(round), global, {.memory = 5 * 4 * 1100});
  CHECK((global == expected));
}

TEST_CASE("aggregate_round: experts are weighted by tokens and the rest by examples") {
  const std::vector<FlatParameter> model{
      {"weight", {3000}}, {"moe.experts.up", {3, 700}, "moe"}, {"bias", {1500}}};
  const std::vector<SharingRule> rules{{"*.experts.*", Sharing::by_tokens}};
  const SharingPolicy policy(model, rules);
  const std::size_t total = policy.exchanged_elements();
  REQUIRE(total == 6600);
  const TrialRound round(3, total);
  auto updates = updates_of(round);
  updates[0].tokens = {100, 0, 0};  // no site used expert 2
  updates[1].tokens = {300, 50, 0};
  updates[2].tokens = {0, 50, 0};
  const auto before = random_floats(total, 5);
  const std::size_t memory = GENERATE(std::size_t{1} << 25, std::size_t{1});  // one block; one tile per block
  auto global = before;
  aggregate_round(*make_strategy({}, total), policy, updates, global, {.memory = memory});
  std::vector<double> expected(total);
  for (std::size_t j = 0; j < total; ++j) {
    double sum = 0, weights = 0;
    for (std::size_t i = 0; i < 3; ++i) {
      const bool expert = j >= 3000 && j < 5100;
      const double weight = expert ? updates[i].tokens[(j - 3000) / 700] : updates[i].weight;
      sum += weight * round.changes[i][j];
      weights += weight;
    }
    expected[j] = before[j] + (weights > 0 ? sum / weights : 0);
  }
  CHECK(distance(Tensor::of<float>({6600}, global), Tensor::of<double>({6600}, expected)) < 1e-7);
  CHECK(std::equal(before.begin() + 4400, before.begin() + 5100, global.begin() + 4400));
}

TEST_CASE("aggregate_round: what is private stays as it is in all vectors") {
  const std::vector<FlatParameter> model{
      {"head", {700}}, {"moe.experts.up", {3, 500}, "moe"}, {"bias", {300}}};
  const std::vector<SharingRule> rules{{"*.experts.*[1]", Sharing::kept_private},
                                       {"head", Sharing::kept_private}};
  const SharingPolicy policy(model, rules);
  const std::size_t all = 2500, shared = 1300;
  REQUIRE(policy.exchanged_elements() == shared);
  const std::size_t memory = GENERATE(std::size_t{1} << 25, std::size_t{1});
  const auto strategy = make_strategy({.name = "scaffold", .sites = 4}, shared);
  const TrialRound round(4, 2 * shared);
  const auto before = random_floats(2 * all, 5);
  auto global = before;
  int passed = 0;
  aggregate_round(*strategy, policy, updates_of(round), global,
                  {.memory = memory, .passed = [&] { ++passed; }});
  CHECK(passed == 2);
  std::vector<float> expected = before, exchanged(2 * shared);
  for (std::size_t v = 0; v < 2; ++v)
    policy.gather(std::span(before).subspan(v * all, all), std::span(exchanged).subspan(v * shared, shared));
  round.run(*make_strategy({.name = "scaffold", .sites = 4}, shared), exchanged);
  for (std::size_t v = 0; v < 2; ++v)
    for (const auto& range : policy.ranges())
      std::copy_n(&exchanged[v * shared + range.exchanged], range.size, &expected[v * all + range.model]);
  CHECK((global == expected));
}

TEST_CASE("aggregate_round: memory for blocks only, where vectors are in files") {
  const TemporaryDirectory folder;
  constexpr std::size_t kCount = std::size_t{12} << 20;  // 48 MiB for the model, and twice that for moments
  const std::vector<FlatParameter> model{{"weight", {kCount}}};
  const SharingPolicy policy(model, {});
  const MappedVector global(kCount, folder.path());
  const auto strategy = make_strategy({.name = "fedadam", .folder = folder.path()}, kCount);
  const std::vector<SiteUpdate> updates(
      2, {.read = [](std::size_t, std::span<float> out) { std::ranges::fill(out, 1.0F); }});
  std::size_t most = 0;
  const auto resident = [] {
    std::ifstream pages("/proc/self/statm");
    std::size_t all = 0, resident = 0;
    pages >> all >> resident;
    return resident * 4096 >> 20;
  };
  const std::size_t before = resident();
  aggregate_round(*strategy, policy, updates, global.values(), {.memory = 4 << 20, .passed = [&] {
                                                                  most = std::max(most, resident());
                                                                  global.give_back();
                                                                  strategy->give_back();
                                                                }});
  CHECK(most < before + 40);  // of 144 MiB
  CHECK(resident() < before + 40);
  CHECK(global.values()[kCount - 1] > 0);
}

TEST_CASE("aggregate_round: an invalid round is refused with the reason") {
  const std::vector<FlatParameter> model{{"weight", {2000}}, {"moe.experts.up", {2, 10}, "moe"}};
  const std::vector<SharingRule> rules{{"*.experts.*", Sharing::by_tokens}};
  const SharingPolicy policy(model, rules);
  TrialRound round(2, 2020);
  std::vector<float> global(2020);
  auto updates = updates_of(round);
  const auto aggregate = [&](const std::string& name) {
    aggregate_round(*make_strategy({.name = name, .norm_bound = 1}, 2020), policy, updates, global,
                    {.memory = 1});
  };
  CHECK_THROWS_WITH(aggregate("fedavg"), Contains("update 0: tokens of 0 experts, expected those of 2"));
  updates[0].tokens = updates[1].tokens = {1, 2};
  aggregate("fedavg");
  updates[1].tokens[1] = std::nan("");
  CHECK_THROWS_WITH(aggregate("fedavg"), Contains("update 1: an expert served nan tokens"));
  updates[1].tokens[1] = 2;
  const auto before = global;
  round.changes[1][1500] = std::numeric_limits<float>::infinity();
  CHECK_THROWS_WITH(aggregate("norm_bound"), Contains("update 1: it has values that are not finite"));
  CHECK(global == before);
  updates[0].read = [](std::size_t, std::span<float>) { fail("the disk is gone"); };
  CHECK_THROWS_WITH(aggregate("median"), Contains("the disk is gone"));
  CHECK_THROWS_WITH(aggregate_round(*make_strategy({}, 2019), policy, updates, global), Contains("2019"));
  updates.clear();
  CHECK_THROWS_WITH(aggregate("fedavg"), Contains("without updates"));
}

}  // namespace
}  // namespace conclave
