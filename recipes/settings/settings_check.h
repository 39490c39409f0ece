// The limits of settings. A message begins with the place where a user wrote the offending key: the first of
// its keys that the file or a `--set` gave.
#pragma once

#include <initializer_list>
#include <string>
#include <string_view>
#include <vector>

#include "recipes/settings/recipe.h"
#include "recipes/settings/recipe_text.h"
#include "recipes/settings/settings_tables.h"

namespace conclave::settings {

using namespace recipe_text;

/// Collects the mistakes in settings.
class Checker {
 public:
  /// Messages begin with a place of `origin`, or with `name`, which stands for the file.
  Checker(const Origin& origin, const std::string& name) : origin_(origin), name_(name) {}

  /// The place of the first of `keys` that a user gave; the file if there is none.
  std::string place(std::initializer_list<std::string_view> keys) const {
    for (const auto key : keys)
      if (const auto found = origin_.find(key); found != origin_.end()) return found->second;
    return name_;
  }

  /// "moe.experts = 8", with "(default)" if the user gave other keys but not this one.
  template <class T>
  std::string shown(std::string_view key, const T& value) const {
    const bool given = origin_.empty() || origin_.contains(key);
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
  void check_limits(const Tables& tables);

 private:
  void limits(const std::string& key, bool value, const Rule& rule);
  void limits(const std::string& key, std::int64_t value, const Rule& rule);
  void limits(const std::string& key, double value, const Rule& rule);
  void limits(const std::string& key, const std::string& value, const Rule& rule);
  void limits(const std::string& key, const std::vector<std::string>& values, const Rule& rule);

  template <class T>
  static std::string readable_value(const T& value) {
    if constexpr (std::same_as<T, std::string>)
      return '"' + readable(value) + '"';
    else
      return toml_value(value);
  }

  const Origin& origin_;
  const std::string& name_;
  std::string mistakes_;
};

}  // namespace conclave::settings
