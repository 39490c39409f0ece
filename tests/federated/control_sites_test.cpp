#include "federated/control_sites.h"

#include <catch2/catch.hpp>
#include <nlohmann/json.hpp>

namespace conclave {
namespace {

TEST_CASE("control variates of all sites that there ever were count in their mean") {
  using Sites = std::set<std::string>;
  nlohmann::json metadata{{"class_names", {"noun"}}};
  CHECK(control_sites(metadata).empty());
  CHECK(add_control_sites(metadata, {"east", "north", "west"}) == 1);
  CHECK(add_control_sites(metadata, {"east", "north"}) == 1);              // west's is still in the mean
  CHECK(add_control_sites(metadata, {"east", "north", "south"}) == 0.75);  // as many as at first
  CHECK(control_sites(nlohmann::json::parse(metadata.dump())) == Sites{"east", "north", "south", "west"});
  CHECK(metadata.at("class_names").size() == 1);
}

}  // namespace
}  // namespace conclave
