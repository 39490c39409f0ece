#include "recipes/settings/plugins.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <filesystem>

#include "core/plugin.h"
#include "parallel/moe/balancer.h"
#include "parallel/moe/mixed_experts.h"
#include "parallel/moe/router.h"

namespace conclave {
namespace {

std::string find_plugin(const std::filesystem::path& path, const std::filesystem::path& folder) {
  std::vector<std::string> tried;
  for (const auto& place : {folder / path, path, folder / path.filename(), path.filename()}) {
    std::error_code error;
    const auto absolute = std::filesystem::absolute(place, error).lexically_normal();
    if (std::filesystem::exists(absolute, error)) return absolute.string();
    if (std::ranges::find(tried, absolute.string()) == tried.end()) tried.push_back(absolute.string());
  }
  fail("no such file; looked for {}; say where it is, as in --set run.plugins=/path/to/{}",
       fmt::join(tried, ", "), path.filename().string());
}

void load(Recipe& recipe, const std::string& file) {
  const auto place = [&](const std::string& key) {
    const auto found = recipe.origin.find(key);
    return fmt::format("{}: {}", found == recipe.origin.end() ? file : found->second, key);
  };
  for (std::string& plugin : recipe.run.plugins) {
    const std::string given = plugin;
    try {
      plugin = find_plugin(given, std::filesystem::path(file).parent_path());
      load_plugin(plugin);
    } catch (const std::exception& error) {
      fail("{}: \"{}\": {}", place("run.plugins"), given, error.what());
    }
  }
  const auto known = [&](const std::string& key, const auto& expect) {
    try {
      expect();
    } catch (const Error& error) {
      fail("{}: {}; name one of these, or in run.plugins the plug-in that brings it", place(key),
           error.what());
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

}  // namespace

void load_plugins(Recipe& recipe, const std::string& file, Communicator* ranks) {
  std::string mistake;
  try {
    load(recipe, file);
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

}  // namespace conclave
