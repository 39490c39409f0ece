#include "recipes/federation.h"

#include <set>

#include "federated/identity.h"
#include "recipes/settings_check.h"
#include "recipes/settings_reader.h"

namespace conclave {
namespace {

bool has_port(std::string_view address) {
  const auto colon = address.rfind(':');
  return colon != std::string_view::npos && colon + 1 < address.size() &&
         address.find_first_not_of("0123456789", colon + 1) == std::string_view::npos;
}

// The keys of `from`, the site's table `table`, that were given.
template <class Table>
void take_given(const Table& from, std::string_view table, const SiteSettings& site, Table& to) {
  recipe_fields::fields(from, [&](std::string_view key, const auto& given, auto, const auto&) {
    if (!site.origin.contains(fmt::format("{}.{}", table, key))) return;
    recipe_fields::fields(to, [&](std::string_view other, auto& member, auto, const auto&) {
      if constexpr (std::same_as<std::remove_cvref_t<decltype(member)>, std::remove_cvref_t<decltype(given)>>)
        if (other == key) member = given;
    });
  });
}

}  // namespace

FederationSettings read_federation(const std::string& path, const std::vector<std::string>& overrides) {
  auto settings = settings::parse<FederationSettings>(settings::file_text(path), path, overrides);
  settings::Checker check(settings, path);
  check.check_limits();
  FederationTable& federation = settings.federation;
  check.unless(!federation.sites.empty(), {"federation.sites"}, "federation.sites: there must be some");
  std::set<std::string> seen;
  for (const std::string& site : federation.sites) {
    check.unless(is_site_name(site) && site != kCoordinatorName && site != "authority", {"federation.sites"},
                 "federation.sites: \"{}\" cannot be a site's name; letters, digits, - and _, at most 63",
                 recipe_text::readable(site));
    check.unless(seen.insert(site).second, {"federation.sites"}, "federation.sites: \"{}\" is there twice",
                 recipe_text::readable(site));
  }
  check.unless(federation.quorum <= static_cast<std::int64_t>(federation.sites.size()),
               {"federation.quorum", "federation.sites"}, "{} is more than the {} sites there are",
               check.shown("federation.quorum", federation.quorum), federation.sites.size());
  const StrategyTable& strategy = settings.strategy;
  check.unless(
      (strategy.name == "norm_bound") == (strategy.norm_bound > 0), {"strategy.norm_bound", "strategy.name"},
      "{} with {}: a norm above 0 is for norm_bound, which needs one",
      check.shown("strategy.name", strategy.name), check.shown("strategy.norm_bound", strategy.norm_bound));
  check.unless(has_port(federation.address), {"federation.address"}, "{} has no port; expected host:port",
               check.shown("federation.address", federation.address));
  check.unless(federation.listen.empty() || has_port(federation.listen), {"federation.listen"},
               "{} has no port; expected host:port", check.shown("federation.listen", federation.listen));
  check.finish();
  if (federation.quorum == 0) federation.quorum = static_cast<std::int64_t>(federation.sites.size());
  if (federation.listen.empty())
    federation.listen = "0.0.0.0" + federation.address.substr(federation.address.rfind(':'));
  return settings;
}

SiteSettings read_site(const std::string& path, const std::vector<std::string>& overrides) {
  auto settings = settings::parse<SiteSettings>(settings::file_text(path), path, overrides);
  settings::Checker check(settings, path);
  check.check_limits();
  check.unless(has_port(settings.site.address), {"site.address"}, "{} has no port; expected host:port",
               check.shown("site.address", settings.site.address));
  check.finish();
  if (settings.site.kit.empty()) settings.site.kit = std::filesystem::path(path).parent_path().string();
  if (settings.site.kit.empty()) settings.site.kit = ".";
  return settings;
}

Recipe site_recipe(const SiteSettings& site, const Recipe& model, const std::string& name) {
  Recipe recipe = model;
  recipe.run = site.run;
  recipe.parallel = site.parallel;
  recipe.checkpoint = {};
  recipe.train.start_from.clear();
  recipe.origin = site.origin;
  // What data is, in the model's words, but for where it lies; and all that the site says itself.
  DataRecipe& data = recipe.data;
  data.path = site.data.path;
  data.train = site.data.train;
  data.validation = site.data.validation;
  data.test = site.data.test;
  take_given(site.data, "data", site, data);
  take_given(site.privacy, "privacy", site, recipe.privacy);
  check_recipe(recipe, name);
  return recipe;
}

}  // namespace conclave
