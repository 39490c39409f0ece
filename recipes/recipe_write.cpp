// Writes a recipe with every key, defaults too, so that a run's folder tells exactly what was run.
#include <cmath>

#include "recipes/recipe.h"
#include "recipes/recipe_fields.h"
#include "recipes/recipe_text.h"

namespace conclave {
namespace {

using namespace recipe_text;

std::string allowed(const recipe_fields::Rule& rule) {
  if (!rule.allowed.empty()) return fmt::format("One of {}; default", joined(rule.allowed));
  if (std::isinf(rule.least)) return "Default";
  if (std::isinf(rule.most)) return fmt::format("At least {}; default", rule.least);
  return fmt::format("{} to {}; default", rule.least, rule.most);
}

/// The default of every field as TOML, in the order of for_each_field.
std::vector<std::string> defaults() {
  std::vector<std::string> values;
  const Recipe recipe;
  recipe_fields::for_each_field(recipe, [&](auto, auto, const auto& member, auto, const auto&) {
    values.push_back(toml_value(member));
  });
  return values;
}

}  // namespace

std::string to_toml(const Recipe& recipe, bool documented) {
  const auto default_values = defaults();
  auto default_value = default_values.begin();
  std::string out;
  recipe_fields::tables(recipe, [&](std::string_view table, const auto& members, std::string_view about) {
    if (!out.empty()) out += '\n';
    if (documented) out += fmt::format("# {}\n", about);
    out += fmt::format("[{}]\n", table);
    recipe_fields::fields(members, [&](std::string_view key, const auto& member, std::string_view doc,
                                       const recipe_fields::Rule& rule) {
      if (documented) out += fmt::format("\n# {}. {} {}.\n", doc, allowed(rule), *default_value);
      out += fmt::format("{} = {}\n", key, toml_value(member));
      ++default_value;
    });
  });
  return out;
}

}  // namespace conclave
