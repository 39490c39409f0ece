// Writes a recipe, or other settings, with every key, defaults included, so that a run's folder records
// exactly what was run.
#include <cmath>

#include "recipes/federation.h"
#include "recipes/federation_fields.h"
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
template <class Document>
std::vector<std::string> defaults() {
  std::vector<std::string> values;
  const Document document;
  recipe_fields::for_each_field(document, [&](auto, auto, const auto& member, auto, const auto&) {
    values.push_back(toml_value(member));
  });
  return values;
}

template <class Document>
std::string written(const Document& document, bool documented) {
  const auto default_values = defaults<Document>();
  auto default_value = default_values.begin();
  std::string out;
  recipe_fields::tables(document, [&](std::string_view table, const auto& members, std::string_view about) {
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

}  // namespace

std::vector<std::string> changed_keys(const Recipe& before, const Recipe& now) {
  std::vector<std::string> values, changed;
  recipe_fields::for_each_field(before, [&](auto, auto, const auto& member, auto, const auto&) {
    values.push_back(toml_value(member));
  });
  auto value = values.begin();
  recipe_fields::for_each_field(
      now, [&](std::string_view table, std::string_view key, const auto& member, auto, const auto&) {
        const std::string is = toml_value(member), was = *value++;
        const bool of_surroundings = table == "run" || table == "checkpoint" || table == "parallel";
        if (is != was && !of_surroundings)
          changed.push_back(fmt::format("{}.{} = {} ({} there)", table, key, is, was));
      });
  return changed;
}

std::string to_toml(const Recipe& recipe, bool documented) { return written(recipe, documented); }
std::string to_toml(const FederationSettings& settings, bool documented) {
  return written(settings, documented);
}
std::string to_toml(const SiteSettings& settings, bool documented) { return written(settings, documented); }
std::string to_toml(const SimulationSettings& settings, bool documented) {
  return written(settings, documented);
}

}  // namespace conclave
