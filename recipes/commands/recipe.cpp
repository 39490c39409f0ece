#include <fmt/format.h>

#include <algorithm>
#include <type_traits>

#include "core/text.h"
#include "recipes/commands/commands.h"
#include "recipes/settings/federation.h"
#include "recipes/settings/plugins.h"
#include "recipes/settings/settings_text.h"

namespace conclave::commands {
namespace {

// Whether a line begins a table of that name: [name], with a comment or without.
bool has_table(std::string_view text, std::string_view name) {
  for (std::string_view rest = text; !rest.empty();) {
    const std::size_t end = std::min(rest.find('\n'), rest.size());
    const std::string_view line = rest.substr(0, end),
                           head = trimmed(line.substr(0, line.find('#')), " \t\r");
    if (head.size() > 2 && head.front() == '[' && head.back() == ']' &&
        trimmed(head.substr(1, head.size() - 2), " \t") == name)
      return true;
    rest.remove_prefix(std::min(end + 1, rest.size()));
  }
  return false;
}

// Reads the file and calls use(settings). It has settings of a federation, a site or a simulation if it has
// the table that only these have; else it has a recipe.
template <class Use>
void read_any(const std::string& path, const std::vector<std::string>& overrides, Use&& use) {
  const std::string text = settings::file_text(path, nullptr);
  if (has_table(text, "federation"))
    use(read_federation(path, overrides));
  else if (has_table(text, "site"))
    use(read_site(path, overrides));
  else if (has_table(text, "simulation"))
    use(read_simulation(path, overrides));
  else
    use(read_recipe(path, overrides));
}

}  // namespace

int recipe_check(const RecipeArguments& arguments) {
  const std::string& path = arguments.recipe;
  const std::int64_t ranks = arguments.ranks;
  read_any(path, arguments.overrides, [&]<class Settings>(Settings settings) {
    if constexpr (std::is_same_v<Settings, Recipe>) {
      load_plugins(settings, path);
      if (ranks > 0) check_expert_parallel(settings, path, static_cast<int>(ranks));
    } else {
      require(ranks == 0, "{}: --ranks is for recipes", path);
      if constexpr (!std::is_same_v<Settings, SiteSettings>) load_plugins(settings, path);
    }
  });
  fmt::print("{}: no mistakes found\n", path);
  return 0;
}

int recipe_show(const RecipeArguments& arguments) {
  read_any(arguments.recipe, arguments.overrides,
           [&](const auto& settings) { fmt::print("{}", to_toml(settings, arguments.documented)); });
  return 0;
}

}  // namespace conclave::commands
