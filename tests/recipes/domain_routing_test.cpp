#include "recipes/evaluation/domain_routing.h"

#include <catch2/catch.hpp>

using namespace conclave;

TEST_CASE("the ratio compares the probabilities of domain tokens and of other tokens", "[experts]") {
  const DomainRouting layer{
      .domain_tokens = 10, .other_tokens = 100, .domain = {8, 2, 1}, .other = {20, 80, 0}};
  CHECK(layer.ratio(0) == Approx(4));
  CHECK(layer.ratio(1) == Approx(0.25));
  CHECK(layer.ratio(2) == Approx(10));  // counts as if one other token had reached it
  CHECK(layer.most_specialised() == 2);
  CHECK(layer.expert(-1) == 2);
  CHECK(layer.expert(1) == 1);
  CHECK(mean_ratio({layer, layer}, 0) == Approx(4));
  CHECK(mean_ratio({}, 0) == 0);
  CHECK(describe_domain(layer, "medicine, law", 0) ==
        "domain medicine, law: expert 0 receives it x4.00 more often than others (80.0% of its tokens, 20.0% "
        "of "
        "others')");
}

TEST_CASE("ratios are 0 without domain tokens or without other tokens", "[experts]") {
  CHECK(DomainRouting{.other_tokens = 5, .domain = {0}, .other = {5}}.ratio(0) == 0);
  CHECK(DomainRouting{.domain_tokens = 5, .domain = {5}, .other = {0}}.ratio(0) == 0);
}
