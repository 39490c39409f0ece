#include "federated/privacy/privacy_marks.h"

#include <catch2/catch.hpp>
#include <limits>
#include <nlohmann/json.hpp>

namespace conclave {
namespace {

const nlohmann::json kRounds{
    {"unit", "site"}, {"rounds", 2}, {"epsilon", 1.25}, {"delta", 1e-5}, {"noise_multiplier", 3}};
const nlohmann::json kClients{{"rounds", 7}, {"epsilon", 3.5}, {"delta", 1e-4}, {"noise_multiplier", 1.5}};

TEST_CASE("a run does not take for its own what the model that it starts from has spent", "[federated]") {
  const nlohmann::json simulated{{"seed", 1}, {"client_privacy", kClients}};
  CHECK(is_private(simulated));
  const nlohmann::json begun = begun_from(simulated);
  CHECK_FALSE(is_private(begun));
  CHECK(begun.at("seed") == 1);
  REQUIRE(begun.at("privacy_before").size() == 1);
  CHECK(describe_privacy(begun) ==
        std::vector<std::string>{"the model that it started from: privacy of each client: 7 rounds, epsilon "
                                 "3.5000 at delta 0.0001, noise multiplier 1.5"});

  // A private run on top of it: two marks, one its own.
  nlohmann::json again = begun;
  again["round_privacy"] = kRounds;
  CHECK(is_private(again));
  CHECK(describe_privacy(again).size() == 2);
  CHECK(describe_privacy(again).front() ==
        "privacy of each site: 2 rounds, epsilon 1.2500 at delta 1e-05, noise multiplier 3");
  CHECK(privacy_before(again).size() == 2);
  CHECK(describe_privacy(begun_from(again)).size() == 2);
}

TEST_CASE("a model that has spent nothing leaves no mark; one without noise has spent everything",
          "[federated]") {
  const nlohmann::json first{
      {"privacy", {{"unit", "record"}, {"steps", 0}, {"epsilon", 0}, {"delta", 1e-5}}}};
  CHECK(is_private(first));
  CHECK(begun_from(first) == nlohmann::json::object());
  CHECK(describe_privacy(first).empty());
  nlohmann::json without = kRounds;
  without["epsilon"] = nullptr;
  CHECK(describe_privacy({{"round_privacy", without}}).front().find("epsilon infinite") != std::string::npos);
  CHECK(describe_privacy(begun_from({{"round_privacy", without}})).size() == 1);
}

TEST_CASE("a mark is read as it was written; without a count, none is told", "[federated]") {
  const PrivacyMark whole{.unit = "record",
                          .count = 3,
                          .epsilon = 1.5,
                          .delta = 1e-5,
                          .noise_multiplier = 2,
                          .sampling_rate = 0.5,
                          .name = "run",
                          .scope = "all"};
  nlohmann::json metadata;
  set_mark(metadata, MarkKind::training, whole);
  CHECK(metadata == nlohmann::json{{"privacy",
                                    {{"unit", "record"},
                                     {"steps", 3},
                                     {"epsilon", 1.5},
                                     {"delta", 1e-5},
                                     {"noise_multiplier", 2},
                                     {"sampling_rate", 0.5},
                                     {"name", "run"},
                                     {"scope", "all"}}}});
  CHECK(find_mark(metadata, MarkKind::training) == whole);
  CHECK_FALSE(find_mark(metadata, MarkKind::rounds));
  set_mark(metadata, MarkKind::training, {.epsilon = std::numeric_limits<double>::infinity()});
  metadata = nlohmann::json::parse(metadata.dump());
  CHECK(find_mark(metadata, MarkKind::training)->epsilon == std::numeric_limits<double>::infinity());
  CHECK(describe_privacy(metadata) == std::vector<std::string>{"privacy of each example: epsilon infinite"});
}

}  // namespace
}  // namespace conclave
