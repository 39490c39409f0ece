#include "recipes/federated/agreed_terms.h"

#include <catch2/catch.hpp>
#include <nlohmann/json.hpp>

using namespace conclave;

TEST_CASE("the terms of a federation are the same after a way through JSON, and each counts") {
  const AgreedTerms terms{
      .secure = true,
      .most_examples = 0.1,
      .asynchronous = true,
      .rounds = 3,
      .steps = 4,
      .rules = {.proximal = 0.3, .control_variate = true},
      .privacy = {.unit = RoundPrivacy::Unit::client, .clip_norm = 2, .rate = 0.1, .noise_multiplier = 3},
      .sharing = {{"*.moe.*[3]", Sharing::kept_private}}};
  const nlohmann::json written = terms;
  CHECK(nlohmann::json::parse(written.dump()).get<AgreedTerms>() == terms);
  CHECK(nlohmann::json(AgreedTerms()).get<AgreedTerms>() == AgreedTerms());
  const nlohmann::json plain = AgreedTerms();
  for (const auto& [key, value] : written.items()) {
    nlohmann::json changed = written;
    changed[key] = plain.at(key);
    CHECK_FALSE(changed.get<AgreedTerms>() == terms);
  }
}
