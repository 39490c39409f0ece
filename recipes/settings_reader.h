// Reads settings: toml++ parses the text into a tree, and a document's list of fields picks the keys it
// knows. All mistakes of a file are reported together, in the order of their lines. Limits are checked
// afterwards (settings_check.h), so that the same limits hold for a file and a `--set`.
//
// A Document is a struct of tables (structs of fields) with functions tables() and fields() as in
// recipe_fields.h. Its member `origin` says where each key was given.
#pragma once

#include <toml++/toml.h>

#include <algorithm>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/spelling.h"
#include "core/text.h"
#include "recipes/federation_fields.h"
#include "recipes/recipe_fields.h"
#include "recipes/recipe_text.h"
#include "recipes/settings_text.h"

namespace conclave::settings {

using namespace recipe_text;

// Ten times the longest recipe there is: a wrong file (a data set, /dev/zero) is refused before it is parsed.
inline constexpr std::size_t kMostBytes = 64 * 1024;
// toml++ destroys nested tables recursively, and each dot of `a.a.a.a = 1` nests one deeper. 2048 levels are
// far from the end of any stack. A recipe nests one level; its other dots are in comments and numbers.
inline constexpr std::ptrdiff_t kMostDots = 2048;

inline std::string full_key(std::string_view table, std::string_view key) {
  return table.empty() ? std::string(key) : fmt::format("{}.{}", table, key);
}

template <class Document>
std::vector<std::string_view> table_names() {
  std::vector<std::string_view> names;
  Document document;
  recipe_fields::tables(document,
                        [&](std::string_view name, auto&, std::string_view) { names.push_back(name); });
  return names;
}

template <class Document>
std::vector<std::string_view> key_names(std::string_view table) {
  std::vector<std::string_view> names;
  const Document document;
  recipe_fields::for_each_field(document, [&](std::string_view of, std::string_view key, auto&, auto, auto&) {
    if (of == table) names.push_back(key);
  });
  return names;
}

template <class Document>
std::string unknown_table(std::string_view where, std::string_view table) {
  const auto tables = table_names<Document>();
  return fmt::format("{}: [{}]: no such table; the nearest is [{}]. Tables are: {}", where, readable(table),
                     nearest(readable(table), tables), joined(tables));
}

/// `table` is a known table, or empty for a key outside every table.
template <class Document>
std::string unknown_key(std::string_view where, std::string_view table, std::string_view key) {
  std::string best;
  std::size_t least = std::string::npos;
  const std::string name = readable(key);
  const Document document;
  recipe_fields::for_each_field(document,
                                [&](std::string_view of, std::string_view other, auto&, auto, auto&) {
                                  // Keys of the same table come first. A key of another table counts only if
                                  // its name is the same, or if there is no table.
                                  if (!table.empty() && of != table && other != key) return;
                                  const std::size_t distance = edit_distance(name, other);
                                  if (distance < least) {
                                    least = distance;
                                    best = full_key(of, other);
                                  }
                                });
  const std::string allowed =
      table.empty() ? fmt::format("Tables are: {}", joined(table_names<Document>()))
                    : fmt::format("Keys of [{}]: {}", table, joined(key_names<Document>(table)));
  return fmt::format("{}: {}: no such key{}; the nearest is {}. {}", where, full_key(table, name),
                     table.empty() ? " outside a table" : "", best, allowed);
}

inline std::string what_came(const toml::node& node) {
  if (const auto* text = node.as_string()) return fmt::format("the string \"{}\"", readable(text->get()));
  if (const auto* number = node.as_integer()) return fmt::format("the integer {}", number->get());
  if (const auto* number = node.as_floating_point())
    return fmt::format("the float {}", toml_value(number->get()));
  if (const auto* flag = node.as_boolean()) return fmt::format("the boolean {}", flag->get());
  if (node.is_table()) return "a table";
  if (const auto* array = node.as_array())
    return !array->empty() && array->is_homogeneous(toml::node_type::string) ? "an array of strings"
                                                                             : "an array";
  return "a date or time";
}

inline const char* type_name(const std::int64_t&) { return "an integer"; }
inline const char* type_name(const double&) { return "a number"; }
inline const char* type_name(const bool&) { return "true or false"; }
inline const char* type_name(const std::string&) { return "a string"; }

inline const char* type_name(const std::vector<std::string>&) { return "an array of strings"; }

/// Assigns `node` to `member` if it has the member's type; returns whether it has. An integer is also a
/// number.
template <class T>
bool assign(T& member, const toml::node& node) {
  if constexpr (std::same_as<T, double>) {
    if (const auto* whole = node.as_integer()) {
      member = static_cast<double>(whole->get());
      return true;
    }
  }
  if constexpr (std::same_as<T, std::vector<std::string>>) {
    const auto* array = node.as_array();
    if (!array || !(array->empty() || array->is_homogeneous(toml::node_type::string))) return false;
    member.clear();
    for (const auto& element : *array) member.push_back(element.as_string()->get());
    return true;
  } else {
    const auto* value = node.as<T>();
    if (value) member = value->get();
    return value != nullptr;
  }
}

/// One reading of one file: fills a document, gathers mistakes.
template <class Document>
class Reader {
 public:
  Reader(Document& document, const std::string& name) : document_(document), name_(name) {}

  void read(const toml::table& content) {
    for (const auto& entry : content) {
      const toml::key& key = entry.first;
      const toml::node& node = entry.second;
      bool known = false;
      recipe_fields::tables(document_, [&](std::string_view table, auto& members, auto) {
        if (table != key.str()) return;
        known = true;
        if (const auto* inner = node.as_table())
          read_table(table, members, *inner);
        else
          add(key, [&](const std::string& where) {
            return fmt::format("{}: {}: expected a table, [{}], got {}", where, table, table,
                               what_came(node));
          });
      });
      if (known) continue;
      add(key, [&](const std::string& where) {
        return node.is_table() || node.is_array_of_tables() ? unknown_table<Document>(where, key.str())
                                                            : unknown_key<Document>(where, "", key.str());
      });
    }
    if (mistakes_.empty()) return;
    std::ranges::stable_sort(mistakes_, {}, &Mistake::line);
    std::string all;
    for (const auto& mistake : mistakes_) all += (all.empty() ? "" : "\n") + mistake.text;
    throw RecipeError(all);
  }

 private:
  struct Mistake {
    std::uint32_t line;
    std::string text;
  };

  template <class Members>
  void read_table(std::string_view table, Members& members, const toml::table& content) {
    for (const auto& entry : content) {
      const toml::key& key = entry.first;
      const toml::node& node = entry.second;
      bool known = false;
      recipe_fields::fields(members, [&](std::string_view field, auto& member, auto, const auto&) {
        if (field != key.str()) return;
        known = true;
        const std::string full = full_key(table, field);
        if (assign(member, node))
          document_.origin[full] = place(key);
        else
          add(key, [&](const std::string& where) {
            return fmt::format("{}: {}: expected {}, got {}", where, full, type_name(member),
                               what_came(node));
          });
      });
      if (!known) {
        add(key, [&](const std::string& where) { return unknown_key<Document>(where, table, key.str()); });
      }
    }
  }

  std::string place(const toml::key& key) const {
    const auto line = key.source().begin.line;
    return line ? fmt::format("{}:{}", name_, line) : name_;
  }

  template <class Text>
  void add(const toml::key& key, Text&& text) {
    constexpr std::size_t kMost = 20;  // a wrong file should not fill the screen
    if (mistakes_.size() < kMost) mistakes_.push_back({key.source().begin.line, text(place(key))});
  }

  Document& document_;
  const std::string& name_;
  std::vector<Mistake> mistakes_;
};

/// The value behind `--set key=`. It is TOML, except that the quotes of a string and the brackets of an array
/// of one may be left out. `wanted` has the member's type.
template <class T>
std::optional<toml::table> parse_value(std::string_view given, const T& /*wanted*/) {
  constexpr bool kArray = std::same_as<T, std::vector<std::string>>;
  constexpr bool kString = std::same_as<T, std::string> || kArray;
  const bool quoted = !given.empty() && (given.front() == '"' || given.front() == '\'');
  const bool listed = given.empty() || given.front() == '[';
  if (given.size() > kMostBytes || std::ranges::count(given, '.') > kMostDots ||
      given.find_first_of("\r\n") != std::string_view::npos)
    return std::nullopt;
  std::string text(given);
  if (kString && !quoted && !(kArray && listed)) text = toml_value(given);
  if (kArray && !listed) text = '[' + text + ']';
  try {
    return toml::parse("value = " + text);
  } catch (const toml::parse_error&) {
    return std::nullopt;
  }
}

template <class Document>
void apply_override(Document& document, const std::string& text) {
  const std::string where = fmt::format("--set {}", readable(trimmed(text)));
  const auto equals = text.find('=');
  const std::string_view key = trimmed(std::string_view(text).substr(0, std::min(equals, text.size())));
  if (equals == std::string::npos || key.empty())
    throw RecipeError(where + ": expected key=value, as in --set moe.experts=16");
  const std::string_view value = trimmed(std::string_view(text).substr(equals + 1));

  bool known = false;
  recipe_fields::for_each_field(
      document, [&](std::string_view table, std::string_view field, auto& member, auto, auto&) {
        if (full_key(table, field) != key) return;
        known = true;
        const auto parsed = parse_value(value, member);
        const toml::node* node = parsed ? parsed->get("value") : nullptr;
        if (!node || !assign(member, *node))
          throw RecipeError(fmt::format("{}: {}: expected {}, got {}", where, key, type_name(member),
                                        node            ? what_came(*node)
                                        : value.empty() ? std::string("nothing")
                                                        : readable(value)));
        document.origin.insert_or_assign(std::string(key), where);
      });
  if (known) return;
  const auto dot = key.find('.');
  if (!key_names<Document>(key).empty())
    throw RecipeError(fmt::format("{}: {} is a table; set one of its keys: {}", where, key,
                                  joined(key_names<Document>(key))));
  if (dot == std::string_view::npos) throw RecipeError(unknown_key<Document>(where, "", key));
  const std::string_view table = key.substr(0, dot);
  const auto tables = table_names<Document>();
  throw RecipeError(std::ranges::find(tables, table) == tables.end()
                        ? unknown_table<Document>(where, table)
                        : unknown_key<Document>(where, table, key.substr(dot + 1)));
}

/// Parses `text` as a Document and applies `overrides`; `name` stands for the file. Does not check limits.
/// Throws RecipeError.
template <class Document>
Document parse(const std::string& text, const std::string& name, const std::vector<std::string>& overrides) {
  if (text.size() > kMostBytes)
    throw RecipeError(fmt::format("{}: longer than {} KiB, which no recipe is", name, kMostBytes / 1024));
  if (std::ranges::count(text, '.') > kMostDots)
    throw RecipeError(fmt::format("{}: more than {} dots, which no recipe has", name, kMostDots));
  Document document;
  try {
    Reader(document, name).read(toml::parse(text));
  } catch (const toml::parse_error& error) {
    const auto& at = error.source().begin;
    throw RecipeError(fmt::format("{}:{}: column {}: {}", name, at.line, at.column, error.description()));
  }
  for (const auto& override_text : overrides) apply_override(document, override_text);
  return document;
}

}  // namespace conclave::settings
