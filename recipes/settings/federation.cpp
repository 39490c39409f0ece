#include "recipes/settings/federation.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <iterator>
#include <set>

#include "core/spelling.h"
#include "federated/identity.h"
#include "federated/privacy/calibration.h"
#include "federated/secure_aggregation/agreement.h"
#include "federated/strategies/strategy.h"
#include "federated/transport/site.h"
#include "recipes/settings/federation_fields.h"
#include "recipes/settings/recipe_fields.h"
#include "recipes/settings/settings_check.h"
#include "recipes/settings/settings_reader.h"
#include "recipes/settings/settings_text.h"

namespace conclave {
namespace {

std::string whole_path(const std::filesystem::path& path) {
  const auto whole = std::filesystem::absolute(path).lexically_normal();
  return (whole.has_filename() ? whole : whole.parent_path()).string();
}

bool has_port(std::string_view address) {
  const auto colon = address.rfind(':');
  return colon != std::string_view::npos && colon + 1 < address.size() &&
         address.find_first_not_of("0123456789", colon + 1) == std::string_view::npos;
}

// Copies those keys of `from`, the site's table `name`, that the site's file gives.
template <class Members>
void take_given(Members from, std::string_view name, const SiteSettings& site, Members& to) {
  settings::TableList all;
  all(name, from, "");
  all(name, to, "");
  const settings::Tables tables = std::move(all).take();
  for (std::size_t i = 0; i < tables[0].fields.size(); ++i)
    if (site.origin.contains(fmt::format("{}.{}", name, tables[0].fields[i].key)))
      std::visit([&](auto* value) { *std::get<decltype(value)>(tables[1].fields[i].member) = *value; },
                 tables[0].fields[i].member);
}

// Checks what secure aggregation needs of the other settings.
void check_secure_aggregation(const FederationSettings& settings, settings::Checker& check) {
  const SecureAggregationTable& secure = settings.secure_aggregation;
  const std::size_t sites = settings.federation.sites.size();
  check.require(secure.bits % 8 == 0, {"secure_aggregation.bits"}, "{}: must be a multiple of 8",
                check.shown("secure_aggregation.bits", secure.bits));
  if (!secure.enabled) return;
  check.require(sites >= 3, {"secure_aggregation.enabled", "federation.sites"},
                "secure_aggregation.enabled = true with {} sites: with fewer than 3, each site could compute "
                "the other's update from the sum",
                sites);
  check.require(
      sites <= secure_aggregation::kMostSites, {"secure_aggregation.enabled", "federation.sites"},
      "secure_aggregation.enabled = true with {} sites: expected at most {}, so that the terms of a "
      "sum, which have every site's certificate, fit into a message",
      sites, secure_aggregation::kMostSites);
  check.require(settings.federation.quorum == 0 || settings.federation.quorum >= 3,
                {"federation.quorum", "secure_aggregation.enabled"},
                "{}: secure aggregation needs 3 sites in every round",
                check.shown("federation.quorum", settings.federation.quorum));
  check.require(settings.sharing.by_tokens.empty(), {"sharing.by_tokens", "secure_aggregation.enabled"},
                "sharing.by_tokens: secure aggregation gives all of a site's parameters the same weight");
  const bool weighted = secure.weights == "examples";
  check.require(weighted == (secure.most_examples >= 1),
                {"secure_aggregation.most_examples", "secure_aggregation.weights"},
                "{} with {}: weights by examples, and only they, need most_examples of 1 or more, the most "
                "examples that a site counts as",
                check.shown("secure_aggregation.weights", secure.weights),
                check.shown("secure_aggregation.most_examples", secure.most_examples));
  check.require(!weighted || !settings.privacy.is_on(), {"secure_aggregation.weights", "privacy.unit"},
                "{} with {}: the noise is for updates with equal weights, and the weights would have no "
                "noise; set it to \"equal\"",
                check.shown("secure_aggregation.weights", secure.weights),
                check.shown("privacy.unit", settings.privacy.unit));
  if (sites == 0 || secure.bits % 8 != 0) return;
  const std::int64_t most =
      secure_aggregation::Ring{static_cast<std::size_t>(secure.bits / 8)}.most_each(sites);
  check.require(most >= 1 << 7, {"secure_aggregation.bits", "federation.sites"},
                "{}: for {} sites, that leaves {} steps on either side of 0; take more bits",
                check.shown("secure_aggregation.bits", secure.bits), sites, most);
}

// Checks what noise in sums needs of the other settings.
void check_round_privacy(const FederationSettings& settings, settings::Checker& check) {
  const FederationPrivacyTable& privacy = settings.privacy;
  if (!privacy.is_on()) return;
  const std::string on = check.shown("privacy.unit", privacy.unit);
  check.require(settings.secure_aggregation.enabled, {"privacy.unit", "secure_aggregation.enabled"},
                "{}: the sites' shares of the noise are enough only in the sum of all updates; set "
                "secure_aggregation.enabled = true",
                on);
  check.require(privacy.noise_multiplier > 0 || privacy.epsilon > 0,
                {"privacy.noise_multiplier", "privacy.epsilon", "privacy.unit"},
                "{} wants noise: set privacy.epsilon, the budget, or privacy.noise_multiplier, or both", on);
  if (!RoundPrivacy{.unit = parse_privacy_unit(privacy.unit)}.is_within_sites()) return;
  check.require(settings.federation.local_steps == 1, {"federation.local_steps", "privacy.unit"},
                "{}: with {} a round is one step, of all sites together; set it to 1",
                check.shown("federation.local_steps", settings.federation.local_steps), on);
  check.require(settings.sharing.kept_private.empty(), {"sharing.private", "privacy.unit"},
                "sharing.private: with {} the parameters that a site keeps would be trained without noise",
                on);
  check.require(settings.secure_aggregation.clip_norm >= privacy.clip_norm,
                {"secure_aggregation.clip_norm", "privacy.clip_norm"},
                "{} is the largest norm of a site's sum, and must be at least {}, that of one {}",
                check.shown("secure_aggregation.clip_norm", settings.secure_aggregation.clip_norm),
                check.shown("privacy.clip_norm", privacy.clip_norm), privacy.unit);
}

// Returns the traits of a strategy that is known; null, and a mistake, if it is not. `plugins` is the key
// that names plug-ins.
const StrategyTraits* check_kind(const StrategyOptions& strategy, std::string_view plugins,
                                 settings::Checker& check) {
  const std::vector<std::string> kinds = strategy_kinds();
  const std::vector<std::string_view> names(kinds.begin(), kinds.end());
  const std::string shown = check.shown("strategy.name", strategy.name);
  if (std::ranges::find(kinds, strategy.name) == kinds.end()) {
    check.fail({"strategy.name"},
               "{}: must be one of {}; the nearest is {}; or name in {} the plug-in that brings it", shown,
               recipe_text::joined(names), nearest(recipe_text::readable(strategy.name), names), plugins);
    return nullptr;
  }
  const StrategyTraits& traits = strategy_traits(strategy.name);
  check.require(  // a plug-in's strategy may have a use for the bound
      strategy.norm_bound > 0 ? traits.needs_norms : strategy.name != "norm_bound",
      {"strategy.norm_bound", "strategy.name"},
      "{} with {}: a norm above 0 is for {}, and norm_bound needs one", shown,
      check.shown("strategy.norm_bound", strategy.norm_bound), strategies_that(&StrategyTraits::needs_norms));
  return &traits;
}

void check_strategy_of(const FederationSettings& settings, settings::Checker& check) {
  const StrategyTraits* traits = check_kind(settings.strategy.options, "federation.plugins", check);
  if (!traits) return;
  const std::string shown = check.shown("strategy.name", settings.strategy.options.name);
  if (settings.secure_aggregation.enabled)
    check.require(
        traits->works_on_sums(), {"strategy.name", "secure_aggregation.enabled"},
        "{}: it {}; these go together with secure aggregation: {}", shown,
        traits->control_variate
            ? "needs exact control variates, which clip_norm would scale down together with the update"
        : traits->asynchronous
            ? "is asynchronous, and secure aggregation needs the updates of all sites in a round at the same "
              "time"
            : "looks at each update, which secure aggregation hides",
        strategies_that(&StrategyTraits::works_on_sums));
  const FederationPrivacyTable& privacy = settings.privacy;
  const bool within_sites = RoundPrivacy{.unit = parse_privacy_unit(privacy.unit)}.is_within_sites();
  check.require(
      !traits->proximal || !within_sites, {"strategy.name"},
      "{}: with {} sites send the gradients of one step, taken at the global model, to which it has "
      "nothing to pull them",
      shown, check.shown("privacy.unit", privacy.unit));
}

}  // namespace

std::string strategies_that(const std::function<bool(const StrategyTraits&)>& holds) {
  std::vector<std::string> names;
  std::ranges::copy_if(strategy_kinds(), std::back_inserter(names),
                       [&](const std::string& name) { return holds(strategy_traits(name)); });
  return fmt::format("{}", fmt::join(names, ", "));
}

FederationSettings read_federation(const std::string& path, const std::vector<std::string>& overrides) {
  auto settings = settings::parse<FederationSettings>(settings::file_text(path, nullptr), path, overrides);
  settings::Checker check(settings.origin, path);
  check.check_limits(settings::tables_of(settings));
  FederationTable& federation = settings.federation;
  check.require(!federation.sites.empty(), {"federation.sites"}, "federation.sites: there must be some");
  std::set<std::string> seen;
  for (const std::string& site : federation.sites) {
    check.require(is_site_name(site) && site != kCoordinatorName && site != "authority", {"federation.sites"},
                  "federation.sites: \"{}\" cannot be a site's name; letters, digits, - and _, at most 63",
                  recipe_text::readable(site));
    check.require(seen.insert(site).second, {"federation.sites"}, "federation.sites: \"{}\" is there twice",
                  recipe_text::readable(site));
  }
  check.require(federation.quorum <= static_cast<std::int64_t>(federation.sites.size()),
                {"federation.quorum", "federation.sites"}, "{} is more than the {} sites there are",
                check.shown("federation.quorum", federation.quorum), federation.sites.size());
  check.require(federation.rounds <= kMostFederatedSteps / std::max<std::int64_t>(federation.local_steps, 1),
                {"federation.rounds", "federation.local_steps"},
                "{} with {} are more than the {} steps that a site takes in a federation at most",
                check.shown("federation.rounds", federation.rounds),
                check.shown("federation.local_steps", federation.local_steps), kMostFederatedSteps);
  if (federation.plugins.empty()) check_strategy_of(settings, check);
  check.require(has_port(federation.address), {"federation.address"}, "{} has no port; expected host:port",
                check.shown("federation.address", federation.address));
  check.require(federation.listen.empty() || has_port(federation.listen), {"federation.listen"},
                "{} has no port; expected host:port", check.shown("federation.listen", federation.listen));
  check_secure_aggregation(settings, check);
  check_round_privacy(settings, check);
  check.finish();
  if (federation.quorum == 0) federation.quorum = static_cast<std::int64_t>(federation.sites.size());
  if (federation.listen.empty())
    federation.listen = "0.0.0.0" + federation.address.substr(federation.address.rfind(':'));
  settings.strategy.options.sites = static_cast<std::int64_t>(federation.sites.size());
  settings.strategy.options.own = OwnOptions("strategy.options", settings.strategy.own);
  return settings;
}

SiteSettings read_site(const std::string& path, const std::vector<std::string>& overrides,
                       Communicator* world) {
  auto settings = settings::parse<SiteSettings>(settings::file_text(path, world), path, overrides);
  settings::Checker check(settings.origin, path);
  check.check_limits(settings::tables_of(settings));
  // A [privacy] with only some of its keys would leave the others to the coordinator.
  const auto said = [&](std::string_view key) {
    return settings.origin.contains(fmt::format("privacy.{}", key));
  };
  const bool any = std::ranges::any_of(settings.origin, [](const auto& key) {
    return key.first.starts_with("privacy.") && key.first != "privacy.ledger";
  });
  check.require(!any || said("unit"), {"privacy.unit"},
                "a site with a [privacy] of its own must say its unit: none, record or client");
  check.require(
      !any || !settings.privacy.is_on() || (said("delta") && (said("epsilon") || said("noise_multiplier"))),
      {"privacy.unit"}, "a site with a [privacy] of its own must say delta, and epsilon or noise_multiplier");
  check.require(has_port(settings.site.address), {"site.address"}, "{} has no port; expected host:port",
                check.shown("site.address", settings.site.address));
  const std::filesystem::path folder = std::filesystem::path(path).parent_path();
  if (settings.site.kit.empty()) settings.site.kit = folder.empty() ? "." : folder.string();
  // These are the same wherever the site is started: in another folder it would begin another ledger.
  for (const auto& [key, place] : {std::pair("site.directory", &settings.site.directory),
                                   std::pair("run.directory", &settings.run.directory),
                                   std::pair("privacy.ledger", &settings.privacy.ledger)})
    if (!place->empty() && !settings::is_override(settings.origin, key)) *place = whole_path(folder / *place);
  if (!settings.origin.contains("run.directory"))
    settings.run.directory = settings.site.directory + "/training";
  check.require(whole_path(settings.run.directory) != whole_path(settings.site.directory),
                {"run.directory", "site.directory"},
                "run.directory and site.directory are both {}; training needs a folder of its own",
                settings.site.directory);
  check.finish();
  return settings;
}

SimulationSettings read_simulation(const std::string& path, const std::vector<std::string>& overrides,
                                   Communicator* world) {
  auto settings = settings::parse<SimulationSettings>(settings::file_text(path, world), path, overrides);
  settings::Checker check(settings.origin, path);
  check.check_limits(settings::tables_of(settings));
  SimulationTable& simulation = settings.simulation;
  if (simulation.plugins.empty()) check_kind(settings.strategy.options, "simulation.plugins", check);
  check.require(simulation.cohort <= simulation.clients, {"simulation.cohort", "simulation.clients"},
                "{} is more than {}", check.shown("simulation.cohort", simulation.cohort),
                check.shown("simulation.clients", simulation.clients));
  const ClientPrivacyTable& privacy = settings.client_privacy;
  check.require(privacy.is_on() || !privacy.adaptive, {"client_privacy.adaptive"},
                "client_privacy.adaptive is for privacy; set client_privacy.epsilon, or noise_multiplier");
  check.require(!privacy.is_on() || privacy.delta * static_cast<double>(simulation.clients) < 1,
                {"client_privacy.delta", "simulation.clients"},
                "{}: with {} clients, this delta would allow to publish all data of one of them; set it to "
                "less than {:.1e}",
                check.shown("client_privacy.delta", privacy.delta), simulation.clients,
                1 / static_cast<double>(simulation.clients));
  check.finish();
  if (simulation.cohort == 0) simulation.cohort = simulation.clients;
  settings.strategy.options.sites = simulation.clients;
  settings.strategy.options.own = OwnOptions("strategy.options", settings.strategy.own);
  return settings;
}

void check_strategy(const FederationSettings& settings, const std::string& name) {
  settings::Checker check(settings.origin, name);
  check_strategy_of(settings, check);
  check.finish();
}

void check_strategy(const SimulationSettings& settings, const std::string& name) {
  settings::Checker check(settings.origin, name);
  check_kind(settings.strategy.options, "simulation.plugins", check);
  check.finish();
}

std::vector<std::string> take_simulation_keys(std::vector<std::string>& overrides) {
  SimulationSettings any;
  const auto tables = settings::table_names(settings::tables_of(any));
  const auto rest = std::ranges::stable_partition(overrides, [&](const std::string& override) {
    return std::ranges::find(tables, override.substr(0, override.find('.'))) == tables.end();
  });
  std::vector<std::string> taken(rest.begin(), rest.end());
  overrides.erase(rest.begin(), rest.end());
  return taken;
}

RoundPrivacy round_privacy(const FederationSettings& settings) {
  const FederationPrivacyTable& table = settings.privacy;
  if (!table.is_on()) return {};
  RoundPrivacy privacy{.unit = parse_privacy_unit(table.unit),
                       .clip_norm = settings.secure_aggregation.clip_norm,
                       .noise_multiplier = table.noise_multiplier,
                       .delta = table.delta};
  if (privacy.is_within_sites()) privacy.clip_norm = table.clip_norm, privacy.rate = table.rate;
  const PrivacyBudget budget{table.epsilon, table.delta};
  const std::int64_t rounds = settings.federation.rounds;
  if (privacy.noise_multiplier == 0)
    privacy.noise_multiplier = least_noise(budget, privacy.rate, rounds, kAccountant);
  else if (table.epsilon > 0) {
    const std::int64_t most = most_steps(budget, privacy.noise_multiplier, privacy.rate, kAccountant);
    require(most >= rounds,
            "privacy.epsilon = {} is enough for {} rounds with privacy.noise_multiplier = {}, but "
            "federation.rounds = {}; set noise_multiplier to 0, which chooses the noise",
            table.epsilon, most, privacy.noise_multiplier, rounds);
  }
  return privacy;
}

void expect_counted_in_rounds(const Recipe& recipe) {
  require(
      !recipe.quantization.enabled || recipe.quantization.start_step == 0,
      "quantization.start_step = {} counts the steps of one run, but a federation counts rounds; set it to 0",
      recipe.quantization.start_step);
}

Recipe site_recipe(const SiteSettings& site, const Recipe& model, const std::string& checkpoint,
                   const RoundPrivacy& rounds, const std::string& name) {
  Recipe recipe = model;
  recipe.run = site.run;
  expect_counted_in_rounds(recipe);
  recipe.parallel = site.parallel;
  recipe.checkpoint = {};
  recipe.train.start_from = checkpoint;
  recipe.origin = site.origin;
  // The model says what kind of data it is; the site says where it is, and each key that the site gives is
  // the site's.
  DataRecipe& data = recipe.data;
  data.path = site.data.path;
  data.train = site.data.train;
  data.validation = site.data.validation;
  data.test = site.data.test;
  take_given(site.data, "data", site, data);
  const bool within_sites = rounds.is_within_sites();
  if (within_sites) recipe.privacy = {.delta = rounds.delta};  // the budget is the site's own, or none
  take_given(site.privacy, "privacy", site, recipe.privacy);
  recipe.privacy.ledger.clear();  // a site's ledger counts rounds, not training steps
  settings::Checker check(site.origin, name);
  check.require(
      !rounds.is_on() || !site.origin.contains("privacy.epsilon") || site.origin.contains("privacy.delta"),
      {"privacy.epsilon"},
      "privacy.epsilon = {} without privacy.delta: with the coordinator's delta it might be anything; "
      "set both",
      recipe.privacy.epsilon);
  check.require(
      recipe.privacy.is_on() || rounds.is_on() ||
          (site.privacy.epsilon == 0 && site.privacy.noise_multiplier == 0),
      {"privacy.epsilon", "privacy.noise_multiplier"},
      "this site has privacy.epsilon = {} and privacy.noise_multiplier = {}, and the federation's sums "
      "have no noise; leave both out, or take no part",
      site.privacy.epsilon, site.privacy.noise_multiplier);
  check.require(!rounds.is_on() || recipe.privacy.noise_multiplier <= rounds.noise_multiplier,
                {"privacy.noise_multiplier"},
                "privacy.noise_multiplier = {} is more than the federation's {}, to which each site adds a "
                "part; lower it, or take no part",
                recipe.privacy.noise_multiplier, rounds.noise_multiplier);
  if (within_sites) {
    check.require(rounds.unit == RoundPrivacy::Unit::client || recipe.privacy.unit != "client",
                  {"privacy.unit"},
                  "privacy.unit = \"client\" at this site, where the federation hides single records only; "
                  "leave it out, or take no part");
    recipe.privacy.unit = to_string(rounds.unit);
    recipe.privacy.clip_norm = rounds.clip_norm;
    recipe.privacy.rate = rounds.rate;
    recipe.privacy.noise_multiplier = rounds.noise_multiplier;
  }
  check.require(recipe.privacy.unit != "client" || site.origin.contains("data.client_column"),
                {"data.client_column"},
                "the federation protects clients, and only this site may say which client a row belongs to; "
                "name the column in this site's data.client_column");
  check.finish();
  check_recipe(recipe, name);
  check_trained(recipe, name);
  return recipe;
}

}  // namespace conclave
