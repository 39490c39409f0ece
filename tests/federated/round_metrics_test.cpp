#include "federated/round_metrics.h"

#include <catch2/catch.hpp>
#include <limits>
#include <map>
#include <string>
#include <utility>
#include <vector>

using namespace conclave;

namespace {

ReceivedUpdate update_with(double examples, std::map<std::string, double> metrics) {
  ReceivedUpdate update;
  update.examples = examples;
  update.metrics = std::move(metrics);
  return update;
}

}  // namespace

TEST_CASE("mean_metrics: means are weighted as asked, and one site's name is left out") {
  const std::vector<ReceivedUpdate> round{
      update_with(100, {{"loss", 1}, {"accuracy", 0.5}}),
      update_with(300, {{"loss", 2}, {"accuracy", 0.7}}),
      update_with(1e12, {{"loss", 6}, {"made up", 1}}),
  };
  const auto alike = mean_metrics(round, false);
  CHECK(alike.size() == 2);
  CHECK(alike.at("loss") == Approx(3));
  CHECK(alike.at("accuracy") == Approx(0.6));
  CHECK(mean_metrics(round, true).at("loss") == Approx(6));
  CHECK(mean_metrics(round, true).at("accuracy") == Approx(0.65));
  CHECK(mean_metrics(std::span(round).first(2), true).at("loss") == Approx(1.75));
  CHECK(mean_metrics({}, true).empty());

  constexpr double most = std::numeric_limits<double>::max();
  const std::vector<ReceivedUpdate> large{update_with(1e12, {{"loss", most / 2}, {"other", 1}}),
                                          update_with(1e12, {{"loss", most / 2}})};
  CHECK(mean_metrics(large, true).at("loss") == Approx(most / 2));
  const std::vector<ReceivedUpdate> none{update_with(0, {{"loss", 1}})};
  CHECK(mean_metrics(none, true).empty());
}
