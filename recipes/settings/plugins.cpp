#include "recipes/settings/plugins.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <filesystem>
#include <map>

#include "core/plugin.h"
#include "parallel/moe/balancer.h"
#include "parallel/moe/mixed_experts.h"
#include "parallel/moe/router.h"
#include "recipes/settings/settings_reader.h"

namespace conclave {
namespace {

// `key` names the plug-in. `places`: where it may be.
std::string find_plugin(const std::filesystem::path& path, const std::vector<std::filesystem::path>& places,
                        const std::string& key) {
  std::vector<std::string> tried;
  for (const auto& place : places) {
    std::error_code error;
    const auto absolute = std::filesystem::absolute(place, error).lexically_normal();
    if (std::filesystem::exists(absolute, error)) return absolute.string();
    if (std::ranges::find(tried, absolute.string()) == tried.end()) tried.push_back(absolute.string());
  }
  fail("no such file; looked for {}; say where it is, as in --set {}=/path/to/{}", fmt::join(tried, ", "),
       key, path.filename().string());
}

using Places = std::map<std::string, std::string, std::less<>>;  // as Recipe::origin

std::string place_of(const std::string& key, const Places& origin, const std::string& file) {
  const auto found = origin.find(key);
  return fmt::format("{}: {}", found == origin.end() ? file : found->second, key);
}

// Loads the `plugins` that the key names, and makes their paths absolute.
void load_named(std::vector<std::string>& plugins, const std::string& key, const Places& origin,
                const std::string& file) {
  const bool overrides = settings::is_override(origin, key);
  const auto folder = std::filesystem::path(file).parent_path();
  for (std::string& plugin : plugins) {
    const std::string given = plugin;
    const std::filesystem::path path = given, name = path.filename();
    try {
      plugin = overrides ? find_plugin(path, {path}, key)
                         : find_plugin(path, {folder / path, path, folder / name, name}, key);
      load_plugin(plugin);
    } catch (const std::exception& error) {
      fail("{}: \"{}\": {}", place_of(key, origin, file), given, error.what());
    }
  }
}

void load(Recipe& recipe, const std::string& file) {
  load_named(recipe.run.plugins, "run.plugins", recipe.origin, file);
  const auto known = [&](const std::string& key, const auto& expect) {
    try {
      expect();
    } catch (const Error& error) {
      fail("{}: {}; name one of these, or in run.plugins the plug-in that brings it",
           place_of(key, recipe.origin, file), error.what());
    }
  };
  known("moe.router", [&] { expect_router_kind(recipe.moe.router); });
  known("moe.balancer", [&] { expect_balancer_kind(recipe.moe.balancer); });
  check_balancer(recipe, file);
  known("moe.expert", [&] {
    for (const auto& [kind, count] : expert_shares(recipe.moe.expert, recipe.moe.experts))
      expect_expert_kind(kind);
  });
}

void load(FederationSettings& settings, const std::string& file) {
  load_named(settings.federation.plugins, "federation.plugins", settings.origin, file);
  check_strategy(settings, file);
}

void load(SimulationSettings& settings, const std::string& file) {
  load_named(settings.simulation.plugins, "simulation.plugins", settings.origin, file);
  check_strategy(settings, file);
}

// load(), collective over `ranks`, if given.
template <class Settings>
void load_everywhere(Settings& settings, const std::string& file, Communicator* ranks) {
  std::string mistake;
  try {
    load(settings, file);
  } catch (const Error& error) {
    mistake = error.what();
  }
  if (ranks) {
    const auto mistakes = ranks->all_gather(mistake);
    const auto first = std::ranges::find_if(mistakes, [](const auto& text) { return !text.empty(); });
    if (first == mistakes.end()) return;
    mistake = *first;
    if (first != mistakes.begin()) mistake += fmt::format(" (on rank {})", first - mistakes.begin());
  }
  if (!mistake.empty()) throw RecipeError(mistake);
}

}  // namespace

void load_plugins(Recipe& recipe, const std::string& file, Communicator* ranks) {
  load_everywhere(recipe, file, ranks);
}

void load_plugins(FederationSettings& settings, const std::string& file) {
  load_everywhere(settings, file, nullptr);
}

void load_plugins(SimulationSettings& settings, const std::string& file, Communicator* ranks) {
  load_everywhere(settings, file, ranks);
}

}  // namespace conclave
