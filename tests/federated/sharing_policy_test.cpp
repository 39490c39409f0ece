#include <catch2/catch.hpp>
#include <map>

#include "core/error.h"
#include "federated/global_model.h"
#include "federated/policy.h"

namespace conclave {
namespace {

using Catch::Matchers::Contains;
using Catch::Matchers::Equals;

// An embedding, and two layers of three experts.
const std::vector<FlatParameter> kModel{
    {"token_embedding.weight", {5, 2}},
    {"layers.0.moe.router.weight", {3, 2}, "layers.0.moe"},
    {"layers.0.moe.experts.up.weight", {3, 2, 2}, "layers.0.moe"},
    {"layers.0.moe.experts.up.bias", {3, 2}, "layers.0.moe"},
    {"layers.1.moe.router.weight", {3, 2}, "layers.1.moe"},
    {"layers.1.moe.experts.up.weight", {3, 2, 2}, "layers.1.moe"},
    {"head.bias", {4}},
};
constexpr std::size_t kModelElements = 10 + 6 + 12 + 6 + 6 + 12 + 4;

SharingPolicy policy(const std::vector<SharingRule>& rules) { return {kModel, rules}; }

// For each element of the model, the expert whose tokens weight it; -1: weighted by examples; -2: private.
std::vector<int> weighted_by(const SharingPolicy& policy) {
  std::vector<int> by(policy.model_elements(), -2);
  std::size_t exchanged = 0;
  for (const auto& range : policy.ranges()) {
    CHECK(range.exchanged == exchanged);
    exchanged += range.size;
    for (std::size_t i = 0; i < range.size; ++i) by[range.model + i] = static_cast<int>(range.expert);
  }
  CHECK(exchanged == policy.exchanged_elements());
  return by;
}

std::vector<int> runs(std::initializer_list<std::pair<int, std::size_t>> values) {
  std::vector<int> all;
  for (const auto& [value, count] : values) all.insert(all.end(), count, value);
  return all;
}

TEST_CASE("SharingPolicy: without rules everything is shared as one range") {
  const auto all = policy({});
  CHECK(all.model_elements() == kModelElements);
  CHECK(all.exchanged_elements() == kModelElements);
  CHECK(all.ranges().size() == 1);
  CHECK(all.experts().empty());
}

TEST_CASE("SharingPolicy: experts by tokens, and private experts with router rows") {
  const auto mixed = policy({{"*.moe.experts.*", Sharing::by_tokens},
                             {"layers.*.moe.*[2]", Sharing::kept_private},
                             {"layers.0.moe.*[0]", Sharing::kept_private}});
  using Expert = SharingPolicy::Expert;
  CHECK(mixed.experts() ==
        std::vector<Expert>{{"layers.0.moe", 1}, {"layers.1.moe", 0}, {"layers.1.moe", 1}});
  CHECK(weighted_by(mixed) == runs({{-1, 10},  // embedding
                                    {-2, 2},
                                    {-1, 2},
                                    {-2, 2},  // router: experts 0, 1, 2
                                    {-2, 4},
                                    {0, 4},
                                    {-2, 4},  // up.weight
                                    {-2, 2},
                                    {0, 2},
                                    {-2, 2},  // up.bias
                                    {-1, 4},
                                    {-2, 2},  // router
                                    {1, 4},
                                    {2, 4},
                                    {-2, 4},  // up.weight
                                    {-1, 4}}));
}

TEST_CASE("check_kept_private: asking for what a site keeps private is refused") {
  const auto check = [](const std::vector<SharingRule>& asked, const std::vector<SharingRule>& own) {
    check_kept_private(kModel, policy(asked), policy(own));
  };
  const SharingRule third{"*.moe.*[2]", Sharing::kept_private}, head{"head.bias", Sharing::kept_private};
  const auto asks_for = [](const std::string& what) {
    return Contains("asks for '" + what + "', which this site's sharing.private");
  };
  CHECK_NOTHROW(check({}, {}));
  CHECK_NOTHROW(check({third}, {}));
  CHECK_NOTHROW(check({third, head}, {third}));
  CHECK_NOTHROW(check({third}, {{"layers.1.moe.experts.*[2]", Sharing::kept_private}}));
  const auto refusal = [&](const std::vector<SharingRule>& asked, const SharingRule& own) {
    try {
      check(asked, {own});
    } catch (const Error& error) {
      return std::string(error.what());
    }
    return std::string();
  };
  CHECK_THAT(refusal({}, head), asks_for("head.bias"));
  CHECK_THAT(refusal({third}, head), asks_for("head.bias"));
  CHECK_THAT(refusal({{"*.moe.experts.*", Sharing::by_tokens}}, third),
             asks_for("layers.0.moe.router.weight[2]"));
  CHECK_THAT(refusal({{"layers.0.*[2]", Sharing::kept_private}}, third),
             asks_for("layers.1.moe.router.weight[2]"));
  CHECK_THAT(refusal({{"*router*[2]", Sharing::kept_private}, {"*up*[0,2]", Sharing::kept_private}},
                     {"layers.1.moe.experts.*[2]", Sharing::kept_private}),
             Equals(""));
  CHECK_THAT(refusal({}, {"*.nothing", Sharing::kept_private}), Contains("*.nothing"));
}

TEST_CASE("SharingPolicy: lists and spans select the same experts") {
  const auto both = weighted_by(policy({{"layers.0.moe.*[0,2]", Sharing::kept_private}}));
  CHECK(weighted_by(policy({{"layers.0.moe.*[2,0-0,2-2,0]", Sharing::kept_private}})) == both);
  CHECK(weighted_by(policy({{"layers.0.moe.*[1-2,0,0-1]", Sharing::kept_private}})) ==
        weighted_by(policy({{"layers.0.moe.*[0-2]", Sharing::kept_private}})));
  CHECK(weighted_by(policy({{"layers.0.moe.*[0,2]", Sharing::kept_private}})) ==
        weighted_by(policy(
            {{"layers.0.moe.*[0]", Sharing::kept_private}, {"layers.0.moe.*[2-2]", Sharing::kept_private}})));
  CHECK(weighted_by(policy({{"layers.0.moe.*[0-2]", Sharing::kept_private}})) ==
        weighted_by(policy({{"layers.0.moe.*", Sharing::kept_private}})));
}

TEST_CASE("SharingPolicy: gather packs shared elements") {
  const auto mixed =
      policy({{"layers.0.moe.*[1]", Sharing::kept_private}, {"head.bias", Sharing::kept_private}});
  std::vector<float> model(kModelElements), exchanged(mixed.exchanged_elements());
  for (std::size_t i = 0; i < kModelElements; ++i) model[i] = static_cast<float>(i);
  mixed.gather(model, exchanged);
  std::vector<float> shared;
  const auto by = weighted_by(mixed);
  for (std::size_t i = 0; i < kModelElements; ++i)
    if (by[i] != -2) shared.push_back(model[i]);
  CHECK(exchanged == shared);
  CHECK_THROWS_WITH(mixed.gather(exchanged, model), Contains("expected"));
}

TEST_CASE("SharingPolicy: invalid and contradictory rules are refused") {
  const auto kPrivate = Sharing::kept_private, kTokens = Sharing::by_tokens;
  CHECK_THROWS_WITH(policy({{"layers.0.moe.experts.up.wieght", kPrivate}}),
                    Contains("matches no parameter") && Contains("'layers.0.moe.experts.up.weight'"));
  CHECK_THROWS_WITH(policy({{"head.bias[0]", kPrivate}}), Contains("with a row for each expert"));
  CHECK_THROWS_WITH(policy({{"layers.0.moe.*[1,7]", kPrivate}}), Contains("has an expert 7"));
  CHECK_THROWS_WITH(policy({{"*.up.*", kPrivate}, {"*experts*", kTokens}}),
                    Contains("layers.0.moe.experts.up.weight[0]' is private by '*.up.*' and by_tokens by "
                             "'*experts*'"));
  CHECK_THROWS_WITH(policy({{"layers.0.*[1]", kPrivate}, {"*.router.*[0-1]", Sharing::shared}}),
                    Contains("router.weight[1]' is private"));
  CHECK_THROWS_WITH(policy({{"*", kTokens}}), Contains("'token_embedding.weight' has no rows of experts"));
  CHECK_THROWS_WITH(policy({{"*", kPrivate}}), Contains("nothing would be shared"));
  CHECK_THROWS_WITH(policy({{"layers.0.moe.*[a]", kPrivate}}), Contains("'a' is no expert's number"));
  CHECK_THROWS_WITH(policy({{"layers.0.moe.*[2-1]", kPrivate}}), Contains("2 is above 1"));
  CHECK_THROWS_WITH(policy({{"layers.0.moe.*[]", kPrivate}}), Contains("no expert's number"));
  CHECK_THROWS_WITH(policy({{"layers[0].*", kPrivate}}), Contains("at the end"));
  CHECK_THROWS_WITH(policy({{"layers.0.moe.*[0-99999999999]", kPrivate}}), Contains("has an expert 3"));
  CHECK_THROWS_WITH(policy({{"layers.0.moe.*[99999999999999999999]", kPrivate}}),
                    Contains("no expert's number"));
  CHECK_NOTHROW(policy({{"layers.*", kPrivate}, {"*experts*", kPrivate}}));  // the two rules agree
  CHECK_THROWS_WITH(parse_sharing("mine"), Contains("'mine'") && Contains("by_tokens"));
  for (const auto sharing : {Sharing::shared, kTokens, kPrivate})
    CHECK(parse_sharing(to_string(sharing)) == sharing);
}

// A layer's parameters as in a checkpoint: the number of experts of each kind, and of rows of the router.
std::vector<FlatParameter> layer_of(const std::map<std::string, Index>& kinds, Index router) {
  ModelLayout layout;
  for (const auto& [kind, experts] : kinds)
    layout.parts.push_back({"model/layers/0/moe/experts/" + kind + "up/weight", {experts, 2, 2}, true});
  layout.parts.push_back({"model/layers/0/moe/router/attention/weight", {7, 7}});
  layout.parts.push_back({"model/layers/0/moe/router/score/weight", {router, 7}});
  return flat_parameters(layout);
}

TEST_CASE("SharingPolicy: rules cannot select experts in layers of several kinds") {
  const SharingRule third{"*.moe.*[2]", Sharing::kept_private}, by_tokens{"*.experts.*", Sharing::by_tokens};
  const auto of = [](const std::vector<FlatParameter>& parameters, const SharingRule& rule) {
    return SharingPolicy(parameters, std::span(&rule, 1));
  };
  const auto alike = layer_of({{"", 4}}, 4);
  CHECK(of(alike, third).exchanged_elements() == 4 * 4 + 49 + 4 * 7 - 4 - 7);
  CHECK(of(alike, by_tokens).experts().size() == 4);
  using Kinds = std::map<std::string, Index>;
  for (const Kinds& kinds : {Kinds{{"feed_forward/", 3}, {"gated/", 1}}, Kinds{{"a/", 2}, {"b/", 2}}}) {
    const auto mixed = layer_of(kinds, 4);
    CHECK_THROWS_WITH(of(mixed, third), Contains("'layers.0.moe.experts") && Contains("of several kinds"));
    CHECK_THROWS_WITH(of(mixed, {"*.router.*[2]", Sharing::kept_private}), Contains("of several kinds"));
    CHECK_THROWS_WITH(of(mixed, by_tokens), Contains("of several kinds"));
    CHECK(of(mixed, {"*.experts.*", Sharing::kept_private}).exchanged_elements() == 49 + 4 * 7);
  }
}

TEST_CASE("SharingPolicy: hostile rules take bounded time and memory") {
  const std::string name(60, 'a');
  const std::vector<FlatParameter> parameters{{name, {2, 2}, "layer"}};
  std::string stars;
  for (int i = 0; i < 30; ++i) stars += "*a";
  CHECK(SharingPolicy(parameters, std::vector<SharingRule>{{stars, Sharing::shared}}).exchanged_elements() ==
        4);
  CHECK_THROWS_WITH(SharingPolicy(parameters, std::vector<SharingRule>{{stars + "b", Sharing::shared}}),
                    Catch::Contains("matches no parameter"));
  CHECK_THROWS_WITH(SharingPolicy(parameters, std::vector<SharingRule>{{std::string(1'000'000, '*') + "b",
                                                                        Sharing::shared}}),
                    Catch::Contains("matches no parameter"));
  std::string spans = "*[0-1000000000000";
  for (int i = 0; i < 1000; ++i) spans += ",0-1000000000000";
  const std::vector<SharingRule> rules(1000, {spans + "]", Sharing::shared});
  CHECK_THROWS_WITH(SharingPolicy(parameters, rules), Catch::Contains("has an expert 2"));
}

}  // namespace
}  // namespace conclave
