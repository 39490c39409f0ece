#include "recipes/settings/settings_check.h"

#include <algorithm>
#include <cmath>

#include "core/own_options.h"
#include "core/spelling.h"

namespace conclave::settings {
namespace {

std::string range(const Rule& rule) {
  if (std::isinf(rule.most)) return fmt::format("at least {}", rule.least);
  return fmt::format("between {} and {}", rule.least, rule.most);
}

}  // namespace

void Checker::check_limits(const Tables& tables) {
  for (const Table& table : tables)
    for (const Field& field : table.fields)
      std::visit(
          [&](const auto* value) { limits(fmt::format("{}.{}", table.name, field.key), *value, field.rule); },
          field.member);
  finish();
}

void Checker::limits(const std::string&, bool, const Rule&) {}
void Checker::limits(const std::string& key, std::int64_t value, const Rule& rule) {
  const auto number = static_cast<double>(value);
  require(number >= rule.least && number <= rule.most, {key}, "{} = {}: must be {}", key, value, range(rule));
}
void Checker::limits(const std::string& key, double value, const Rule& rule) {
  require(std::isfinite(value) && value >= rule.least && value <= rule.most, {key}, "{} = {}: must be {}",
          key, toml_value(value), range(rule));
}
void Checker::limits(const std::string& key, const std::string& value, const Rule& rule) {
  require(rule.may_be_empty || !value.empty(), {key}, "{}: must not be empty", key);
  require(rule.allowed.empty() || std::ranges::find(rule.allowed, value) != rule.allowed.end(), {key},
          "{} = {}: must be one of {}; the nearest is {}", key, readable_value(value), joined(rule.allowed),
          nearest(readable(value), rule.allowed));
}

void Checker::limits(const std::string& key, const std::vector<std::string>& values, const Rule& rule) {
  for (const std::string& value : values) limits(key, value, rule);
  const std::string mistake = rule.named_values ? OwnOptions::mistake_in(values) : "";
  require(mistake.empty(), {key}, "{}: {}", key, mistake);
}

}  // namespace conclave::settings
