// Reads settings: toml++ parses the text into a tree, and a list of tables picks the keys it knows. All
// mistakes of a file are reported together, in the order of their lines. Limits are checked afterwards
// (settings_check.h), so that the same limits hold for a file and a `--set`.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "recipes/settings/settings_tables.h"

namespace conclave::settings {

/// Parses `text`, applies `overrides`, fills the members of `tables`, and notes in `origin` where each key
/// was given. `name` stands for the file. Does not check limits. Throws RecipeError.
void read(const std::string& text, const std::string& name, const std::vector<std::string>& overrides,
          const Tables& tables, Origin& origin);

/// The same for a struct of settings with a function tables_of() and a member `origin`.
template <class Settings>
Settings parse(const std::string& text, const std::string& name, const std::vector<std::string>& overrides) {
  Settings settings;
  read(text, name, overrides, tables_of(settings), settings.origin);
  return settings;
}

/// Whether an override, in place of the file, gave the key.
bool is_override(const Origin& origin, std::string_view key);

std::vector<std::string_view> table_names(const Tables& tables);

}  // namespace conclave::settings
