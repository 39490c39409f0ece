// The settings of a federation: federation.toml, which its coordinator reads, and a site.toml for each site;
// and those of a simulated federation, simulation.toml. Fields, units and limits are in
// recipes/settings/federation_fields.cpp, as those of recipes are in recipe_fields.cpp.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "federated/round_privacy.h"
#include "federated/strategies/strategy.h"
#include "recipes/settings/recipe.h"

namespace conclave {

struct FederationTable {
  std::string name = "federation";
  std::string directory = "runs/federation";
  std::string kits = "kits";
  std::string address = "localhost:7443";
  std::string listen;
  std::string start;
  std::vector<std::string> sites;
  std::vector<std::string> plugins;
  std::int64_t certificate_days = 90;
  std::int64_t rounds = 10;
  std::int64_t local_steps = 100;
  std::int64_t quorum = 0;
  double gather_seconds = 10;
  double deadline_seconds = 3600;
  std::int64_t keep = 2;
};

/// The names of the strategies, those of loaded plug-ins too, for whose traits `holds` is true: as messages
/// list them.
std::string strategies_that(const std::function<bool(const StrategyTraits&)>& holds);

/// How sites' updates become the next global model; see federated/strategies/strategy.h.
struct StrategyTable {
  StrategyOptions options;            ///< with the number of sites or clients, once read; without a folder
  std::vector<std::string> own = {};  ///< the key "options"; options.own, once read
  std::string schedule = "constant";
  std::int64_t max_staleness = 20;
};

/// Parameters that the sites do not simply share; see federated/policy.h.
struct SharingTable {
  std::vector<std::string> by_tokens, kept_private;
};

/// Secure aggregation: the coordinator learns only the sum of the updates; see federated/secure_round.h.
struct SecureAggregationTable {
  bool enabled = false;
  std::string weights = "equal";
  double most_examples = 0;
  double clip_norm = 1;
  std::int64_t bits = 32;
  double phase_seconds = 60;
};

/// Differential privacy of sites, records or clients; see federated/round_privacy.h.
struct FederationPrivacyTable {
  std::string unit = "none";
  double clip_norm = 1.0;
  double rate = 0.05;
  double noise_multiplier = 0.0;
  double epsilon = 0.0;
  double delta = 1e-5;

  bool is_on() const { return unit != "none"; }
};

struct FederationSettings {
  FederationTable federation;
  StrategyTable strategy;
  SharingTable sharing;
  SecureAggregationTable secure_aggregation;
  FederationPrivacyTable privacy;
  std::map<std::string, std::string, std::less<>> origin;  ///< as Recipe::origin
};

/// Parameters that never leave a site, whatever the federation's [sharing] says.
struct SiteSharingTable {
  std::vector<std::string> kept_private;
};

struct SiteTable {
  std::string kit;
  std::string address = "localhost:7443";
  std::string directory = "runs/site";
  double patience_seconds = 600;
  bool secure_only = false;
  std::int64_t least_sites = 3;
  std::int64_t validate_every = 1;
};

/// The site's own part of the recipe that it trains by: where its data is, how its machines are used, and,
/// where it differs from the federation's, the privacy of its records. The rest comes with the federation's
/// model.
struct SiteSettings {
  SiteTable site;
  RunRecipe run;
  DataRecipe data;
  PrivacyRecipe privacy;
  SiteSharingTable sharing;
  ParallelRecipe parallel;
  std::map<std::string, std::string, std::less<>> origin;
};

/// Simulated clients, each with a few examples of one data set.
struct SimulationTable {
  std::string recipe;
  std::string directory = "runs/simulation";
  std::vector<std::string> plugins;
  std::int64_t clients = 1000;
  std::string parts_by = "random";
  double parts_alpha = 0.3;
  std::int64_t parts_seed = 1;
  std::int64_t cohort = 0;
  std::int64_t rounds = 100;
  std::int64_t local_steps = 0, local_epochs = 1;
  std::int64_t local_batch = 10;
  double client_rate = 0.1;
  std::int64_t evaluate_every = 0;
  std::int64_t keep = 2;
};

/// Differential privacy of each client.
struct ClientPrivacyTable {
  double clip_norm = 1.0;
  double noise_multiplier = 0.0;
  double epsilon = 0.0;
  double delta = 1e-5;
  bool adaptive = false;
  double quantile = 0.5;
  double clip_rate = 0.2;
  double count_noise = 0.0;

  bool is_on() const { return noise_multiplier > 0 || epsilon > 0; }
};

struct SimulationSettings {
  SimulationTable simulation;
  StrategyTable strategy;
  ClientPrivacyTable client_privacy;
  std::map<std::string, std::string, std::less<>> origin;
};

/// These throw RecipeError, as read_recipe() does. With a `world`, every rank gets what rank 0 reads. If the
/// settings name plug-ins, load_plugins() checks the strategy (recipes/settings/plugins.h).
FederationSettings read_federation(const std::string& path, const std::vector<std::string>& overrides = {});
SiteSettings read_site(const std::string& path, const std::vector<std::string>& overrides = {},
                       Communicator* world = nullptr);
SimulationSettings read_simulation(const std::string& path, const std::vector<std::string>& overrides = {},
                                   Communicator* world = nullptr);
/// Throw RecipeError if no strategy of that name is known, or it does not go together with the other
/// settings; `name` stands for the file.
void check_strategy(const FederationSettings& settings, const std::string& name);
void check_strategy(const SimulationSettings& settings, const std::string& name);
/// Settings in the form in which recipes are written.
std::string to_toml(const FederationSettings& settings, bool documented);
std::string to_toml(const SiteSettings& settings, bool documented);
std::string to_toml(const SimulationSettings& settings, bool documented);
/// Removes the keys of simulation.toml from `overrides` and returns them; the others are for the recipe.
std::vector<std::string> take_simulation_keys(std::vector<std::string>& overrides);

/// The noise of the federation's rounds: privacy.noise_multiplier or, where that is 0, the least noise with
/// which all rounds together keep within the budget. Throws Error if the rounds exceed the budget.
RoundPrivacy round_privacy(const FederationSettings& settings);

/// Throws Error if the recipe depends on the number of steps of one run: a federation's models are counted in
/// rounds.
void expect_counted_in_rounds(const Recipe& recipe);

/// The recipe that a site trains the federation's model by. `model` is the recipe in the federation's
/// `checkpoint`, which gives the initial weights and the tokenizer. Nothing in it that refers to this
/// machine's files or programs is taken over. Where the rounds protect records or clients, the recipe gets
/// the same unit. Throws RecipeError if the site's settings contradict the federation's; `name`
/// stands for site.toml.
Recipe site_recipe(const SiteSettings& site, const Recipe& model, const std::string& checkpoint,
                   const RoundPrivacy& rounds, const std::string& name);

}  // namespace conclave
