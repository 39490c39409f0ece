#include <fmt/format.h>

#include "recipes/commands/commands.h"
#include "recipes/plugins.h"

namespace conclave::commands {

int recipe_check(const std::string& path, const std::vector<std::string>& overrides, std::int64_t ranks) {
  Recipe recipe = read_recipe(path, overrides);
  load_plugins(recipe, path);
  if (ranks > 0) check_expert_parallel(recipe, path, static_cast<int>(ranks));
  fmt::print("{}: no mistakes found\n", path);
  return 0;
}

int recipe_show(const std::string& path, const std::vector<std::string>& overrides, bool documented) {
  fmt::print("{}", to_toml(read_recipe(path, overrides), documented));
  return 0;
}

}  // namespace conclave::commands
