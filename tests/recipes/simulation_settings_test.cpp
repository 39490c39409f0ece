#include <catch2/catch.hpp>
#include <filesystem>

#include "recipes/settings/federation.h"
#include "recipes/settings/plugins.h"

using Catch::Contains;
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

TEST_CASE("a strategy that is not known is refused, unless a plug-in may bring it") {
  const std::string file = std::string(CONCLAVE_SOURCE) + "/recipes/simulations/fashion_clients.toml";
  const auto read = [&](std::vector<std::string> overrides) { return read_simulation(file, overrides); };
  CHECK_THROWS_WITH(
      read({"strategy.name=fedavgg"}),
      Contains("--set strategy.name=fedavgg: strategy.name = \"fedavgg\": must be one of fedadagrad") &&
          Contains("the nearest is fedavg; or name in simulation.plugins"));
  SimulationSettings settings = read({"strategy.name=fedavgg", "simulation.plugins=none.so"});
  CHECK_THROWS_WITH(load_plugins(settings, file), Contains("simulation.plugins: \"none.so\": no such file"));
  settings.simulation.plugins.clear();
  CHECK_THROWS_AS(load_plugins(settings, file), RecipeError);
  CHECK(read({"simulation.clients=7000"}).strategy.options.sites == 7000);
  CHECK_THROWS_WITH(read({"strategy.norm_bound=1"}), Contains("norm above 0 is for norm_bound"));
}

TEST_CASE("secure aggregation names the strategies that it works with, as their traits say") {
  std::string message;
  try {
    read_federation(std::string(CONCLAVE_SOURCE) + "/recipes/federations/wordnet.toml",
                    {"strategy.name=median", "secure_aggregation.enabled=true"});
  } catch (const RecipeError& error) {
    message = error.what();
  }
  CHECK_THAT(message, Contains("looks at each update"));
  const std::string list = message.substr(message.find("together with secure aggregation:"));
  for (const std::string& kind : strategy_kinds()) {
    CAPTURE(kind);
    CHECK((list.find(kind) != std::string::npos) == strategy_traits(kind).works_on_sums());
  }
}

TEST_CASE("keys of simulations and of recipes are separated by their table") {
  std::vector<std::string> overrides{"simulation.clients=9", "model.hidden=8", "client_privacy.epsilon=1",
                                     "privacy.epsilon=1"};
  CHECK(take_simulation_keys(overrides) ==
        std::vector<std::string>{"simulation.clients=9", "client_privacy.epsilon=1"});
  CHECK(overrides == std::vector<std::string>{"model.hidden=8", "privacy.epsilon=1"});
}
