// Writes a recipe, or other settings, with every key, defaults included, so that a run's folder records
// exactly what was run.
#include <algorithm>
#include <cmath>
#include <iterator>
#include <string_view>

#include "recipes/settings/federation.h"
#include "recipes/settings/federation_fields.h"
#include "recipes/settings/recipe_fields.h"
#include "recipes/settings/recipe_text.h"

namespace conclave {
namespace {

using namespace recipe_text;
using settings::Field;
using settings::Rule;
using settings::Table;
using settings::Tables;

// The keys of [run] that change where and how a run runs, not what it computes.
constexpr std::string_view kOfTheRunAlone[]{"name", "directory", "threads", "log_every", "trace_step"};

std::string allowed(const Rule& rule) {
  if (!rule.allowed.empty()) return fmt::format("One of {}; default", joined(rule.allowed));
  if (std::isinf(rule.least)) return "Default";
  if (std::isinf(rule.most)) return fmt::format("At least {}; default", rule.least);
  return fmt::format("{} to {}; default", rule.least, rule.most);
}

std::string value(const Field& field) {
  return std::visit([](const auto* member) { return toml_value(*member); }, field.member);
}

/// `tables` as TOML; with `defaults`, the same tables with their defaults, also with comments.
std::string written(const Tables& tables, const Tables* defaults) {
  std::string out;
  for (std::size_t t = 0; t < tables.size(); ++t) {
    if (t > 0) out += '\n';
    const Table& table = tables[t];
    if (defaults) out += fmt::format("# {}\n", table.about);
    out += fmt::format("[{}]\n", table.name);
    for (std::size_t f = 0; f < table.fields.size(); ++f) {
      const Field& field = table.fields[f];
      if (defaults)
        out +=
            fmt::format("\n# {}. {} {}.\n", field.doc, allowed(field.rule), value((*defaults)[t].fields[f]));
      out += fmt::format("{} = {}\n", field.key, value(field));
    }
  }
  return out;
}

template <class Settings>
std::string written_settings(Settings settings, bool documented) {
  const Tables tables = settings::tables_of(settings);
  if (!documented) return written(tables, nullptr);
  Settings standard;
  const Tables defaults = settings::tables_of(standard);
  return written(tables, &defaults);
}

}  // namespace

std::vector<std::string> changed_keys(const Recipe& before, const Recipe& now) {
  Recipe first = before, second = now;  // tables are of settings that may be changed
  const Tables old = settings::tables_of(first), tables = settings::tables_of(second);
  std::vector<std::string> changed;
  for (std::size_t t = 0; t < tables.size(); ++t) {
    const std::string_view table = tables[t].name;
    if (table == "checkpoint" || table == "parallel") continue;  // how it runs, not what
    for (std::size_t f = 0; f < tables[t].fields.size(); ++f) {
      const Field& field = tables[t].fields[f];
      if (table == "run" && std::ranges::find(kOfTheRunAlone, field.key) != std::end(kOfTheRunAlone))
        continue;
      const std::string is = value(field), was = value(old[t].fields[f]);
      if (is != was) changed.push_back(fmt::format("{}.{} = {} ({} there)", table, field.key, is, was));
    }
  }
  return changed;
}

std::string to_toml(const Recipe& recipe, bool documented) { return written_settings(recipe, documented); }
std::string to_toml(const FederationSettings& settings, bool documented) {
  return written_settings(settings, documented);
}
std::string to_toml(const SiteSettings& settings, bool documented) {
  return written_settings(settings, documented);
}
std::string to_toml(const SimulationSettings& settings, bool documented) {
  return written_settings(settings, documented);
}

}  // namespace conclave
