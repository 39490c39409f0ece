// The limits of settings. A message begins with the place where a user wrote the offending key: the first of
// its keys that the file or a `--set` gave.
#pragma once

#include <algorithm>
#include <cmath>
#include <initializer_list>
#include <string>
#include <string_view>
#include <vector>

#include "core/spelling.h"
#include "recipes/federation_fields.h"
#include "recipes/recipe_fields.h"
#include "recipes/recipe_text.h"

namespace conclave::settings {

using namespace recipe_text;
using recipe_fields::Rule;

/// Collects the mistakes in a Document (see settings_reader.h).
template <class Document>
class Checker {
 public:
  Checker(const Document& document, const std::string& name) : document_(document), name_(name) {}

  /// The place of the first of `keys` that a user gave; the file if there is none.
  std::string place(std::initializer_list<std::string_view> keys) const {
    for (const auto key : keys)
      if (const auto found = document_.origin.find(key); found != document_.origin.end())
        return found->second;
    return name_;
  }

  /// "moe.experts = 8", with "(default)" if the user gave other keys but not this one.
  template <class T>
  std::string shown(std::string_view key, const T& value) const {
    const bool given = document_.origin.empty() || document_.origin.contains(key);
    return fmt::format("{} = {}{}", key, readable_value(value), given ? "" : " (default)");
  }

  /// Records a mistake unless `condition` holds; the message begins with the place of `keys`.
  template <class... Args>
  void require(bool condition, std::initializer_list<std::string_view> keys,
               fmt::format_string<Args...> format, Args&&... args) {
    if (!condition) fail(keys, format, std::forward<Args>(args)...);
  }
  template <class... Args>
  void fail(std::initializer_list<std::string_view> keys, fmt::format_string<Args...> format,
            Args&&... args) {
    if (!mistakes_.empty()) mistakes_ += '\n';
    mistakes_ += fmt::format("{}: {}", place(keys), fmt::format(format, std::forward<Args>(args)...));
  }

  void finish() const {
    if (!mistakes_.empty()) throw RecipeError(mistakes_);
  }

  /// Throws RecipeError unless every field is within its limits. Later checks rely on that.
  void check_limits() {
    recipe_fields::for_each_field(
        document_, [&](std::string_view table, std::string_view key, const auto& member, std::string_view,
                       const Rule& rule) { limits(fmt::format("{}.{}", table, key), member, rule); });
    finish();
  }

 private:
  void limits(const std::string& key, bool, const Rule&) { (void)key; }
  void limits(const std::string& key, std::int64_t value, const Rule& rule) {
    const auto number = static_cast<double>(value);
    require(number >= rule.least && number <= rule.most, {key}, "{} = {}: must be {}", key, value,
            range(rule));
  }
  void limits(const std::string& key, double value, const Rule& rule) {
    require(std::isfinite(value) && value >= rule.least && value <= rule.most, {key}, "{} = {}: must be {}",
            key, toml_value(value), range(rule));
  }
  void limits(const std::string& key, const std::string& value, const Rule& rule) {
    require(rule.may_be_empty || !value.empty(), {key}, "{}: must not be empty", key);
    require(rule.allowed.empty() || std::ranges::find(rule.allowed, value) != rule.allowed.end(), {key},
            "{} = {}: must be one of {}; the nearest is {}", key, readable_value(value), joined(rule.allowed),
            nearest(readable(value), rule.allowed));
  }

  void limits(const std::string& key, const std::vector<std::string>& values, const Rule& rule) {
    for (const std::string& value : values) limits(key, value, rule);
  }

  static std::string range(const Rule& rule) {
    if (std::isinf(rule.most)) return fmt::format("at least {}", rule.least);
    return fmt::format("between {} and {}", rule.least, rule.most);
  }
  template <class T>
  static std::string readable_value(const T& value) {
    if constexpr (std::same_as<T, std::string>)
      return '"' + readable(value) + '"';
    else
      return toml_value(value);
  }

  const Document& document_;
  const std::string& name_;
  std::string mistakes_;
};

}  // namespace conclave::settings
