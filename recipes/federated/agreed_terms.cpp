#include "recipes/federated/agreed_terms.h"

#include <nlohmann/json.hpp>

namespace conclave {

AgreedTerms agreed_terms(const SiteRound& round) {
  return {.secure = round.secure,
          .most_examples = round.most_examples,
          .asynchronous = round.asynchronous,
          .rounds = round.rounds,
          .steps = round.local_steps,
          .rules = round.rules,
          .privacy = round.privacy,
          .sharing = round.sharing};
}

void to_json(nlohmann::json& json, const AgreedTerms& terms) {
  nlohmann::json sharing = nlohmann::json::array();
  for (const SharingRule& rule : terms.sharing) sharing.push_back({rule.pattern, to_string(rule.sharing)});
  json = {{"secure", terms.secure},
          {"most_examples", terms.most_examples},
          {"asynchronous", terms.asynchronous},
          {"rounds", terms.rounds},
          {"steps", terms.steps},
          {"privacy",
           {{"unit", to_string(terms.privacy.unit)},
            {"clip_norm", terms.privacy.clip_norm},
            {"rate", terms.privacy.rate},
            {"noise_multiplier", terms.privacy.noise_multiplier},
            {"delta", terms.privacy.delta}}},
          {"sharing", sharing}};
  for_each_rule(terms.rules, [&](const char* name, const auto& value) { json[name] = value; });
}

void from_json(const nlohmann::json& json, AgreedTerms& terms) {
  const nlohmann::json& privacy = json.at("privacy");
  terms = {.secure = json.at("secure"),
           .most_examples = json.at("most_examples"),
           .asynchronous = json.at("asynchronous"),
           .rounds = json.at("rounds"),
           .steps = json.at("steps"),
           .rules = {},
           .privacy = {.unit = parse_privacy_unit(privacy.at("unit").get<std::string>()),
                       .clip_norm = privacy.at("clip_norm"),
                       .rate = privacy.at("rate"),
                       .noise_multiplier = privacy.at("noise_multiplier"),
                       .delta = privacy.at("delta")},
           .sharing = {}};
  for_each_rule(terms.rules, [&](const char* name, auto& value) { json.at(name).get_to(value); });
  for (const nlohmann::json& rule : json.at("sharing"))
    terms.sharing.push_back({rule.at(0), parse_sharing(rule.at(1).get<std::string>())});
}

}  // namespace conclave
