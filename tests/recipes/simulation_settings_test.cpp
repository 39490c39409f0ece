#include <catch2/catch.hpp>
#include <filesystem>

#include "recipes/settings/federation.h"

using namespace conclave;
namespace fs = std::filesystem;

TEST_CASE("the simulations of the repository and their recipes are valid") {
  int count = 0;
  const fs::path source = CONCLAVE_SOURCE;
  for (const auto& entry : fs::directory_iterator(source / "recipes/simulations")) {
    const SimulationSettings settings = read_simulation(entry.path().string());
    CHECK_NOTHROW(read_recipe((source / settings.simulation.recipe).string()));
    CHECK(settings.simulation.cohort > 0);
    ++count;
  }
  CHECK(count > 0);
}

TEST_CASE("keys of simulations and of recipes are separated by their table") {
  std::vector<std::string> overrides{"simulation.clients=9", "model.hidden=8", "client_privacy.epsilon=1",
                                     "privacy.epsilon=1"};
  CHECK(take_simulation_keys(overrides) ==
        std::vector<std::string>{"simulation.clients=9", "client_privacy.epsilon=1"});
  CHECK(overrides == std::vector<std::string>{"model.hidden=8", "privacy.epsilon=1"});
}
