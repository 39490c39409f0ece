#include "recipes/settings/settings_reader.h"

#include <toml++/toml.h>

#include <algorithm>
#include <optional>

#include "core/spelling.h"
#include "core/text.h"
#include "recipes/settings/recipe.h"
#include "recipes/settings/recipe_text.h"
#include "recipes/settings/settings_text.h"

namespace conclave::settings {
namespace {

using namespace recipe_text;

// toml++ destroys nested tables recursively, and each dot of `a.a.a.a = 1` nests one deeper. 2048 levels are
// far from the end of any stack. A recipe nests one level; its other dots are in comments and numbers.
constexpr std::ptrdiff_t kMostDots = 2048;

std::string full_key(std::string_view table, std::string_view key) {
  return table.empty() ? std::string(key) : fmt::format("{}.{}", table, key);
}

std::vector<std::string_view> key_names(const Table& table) {
  std::vector<std::string_view> names;
  for (const Field& field : table.fields) names.push_back(field.key);
  return names;
}

const Table* find(const Tables& tables, std::string_view name) {
  const auto found = std::ranges::find(tables, name, &Table::name);
  return found == tables.end() ? nullptr : &*found;
}

const Field* find(const Table& table, std::string_view key) {
  const auto found = std::ranges::find(table.fields, key, &Field::key);
  return found == table.fields.end() ? nullptr : &*found;
}

std::string unknown_table(const Tables& tables, std::string_view where, std::string_view table) {
  const auto names = table_names(tables);
  return fmt::format("{}: [{}]: no such table; the nearest is [{}]. Tables are: {}", where, readable(table),
                     nearest(readable(table), names), joined(names));
}

/// `table` has no such key; with nullptr, the key is outside every table.
std::string unknown_key(const Tables& tables, std::string_view where, const Table* table,
                        std::string_view key) {
  std::string best;
  std::size_t least = std::string::npos;
  const std::string name = readable(key);
  for (const Table& of : tables)
    for (const Field& other : of.fields) {
      // Keys of the same table come first. A key of another table counts only if its name is the same, or if
      // there is no table.
      if (table && table != &of && other.key != key) continue;
      const std::size_t distance = edit_distance(name, other.key);
      if (distance < least) {
        least = distance;
        best = full_key(of.name, other.key);
      }
    }
  const std::string allowed = table ? fmt::format("Keys of [{}]: {}", table->name, joined(key_names(*table)))
                                    : fmt::format("Tables are: {}", joined(table_names(tables)));
  return fmt::format("{}: {}: no such key{}; the nearest is {}. {}", where,
                     full_key(table ? table->name : "", name), table ? "" : " outside a table", best,
                     allowed);
}

std::string what_came(const toml::node& node) {
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

constexpr const char* type_name(const std::int64_t&) { return "an integer"; }
constexpr const char* type_name(const double&) { return "a number"; }
constexpr const char* type_name(const bool&) { return "true or false"; }
constexpr const char* type_name(const std::string&) { return "a string"; }
constexpr const char* type_name(const std::vector<std::string>&) { return "an array of strings"; }

const char* type_name(const Member& member) {
  return std::visit([](const auto* value) { return type_name(*value); }, member);
}

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

bool assign(const Member& member, const toml::node& node) {
  return std::visit([&](auto* value) { return assign(*value, node); }, member);
}

/// One reading of one file: fills the members, gathers mistakes.
class Reader {
 public:
  Reader(const Tables& tables, Origin& origin, const std::string& name)
      : tables_(tables), origin_(origin), name_(name) {}

  void read(const toml::table& content) {
    for (const auto& [key, node] : content) {
      if (mistakes_.size() >= kMostMistakes) break;
      const Table* table = find(tables_, key.str());
      if (const auto* inner = node.as_table(); table && inner)
        read_table(*table, *inner);
      else if (table)
        add(key, fmt::format("{}: {}: expected a table, [{}], got {}", place(key), table->name, table->name,
                             what_came(node)));
      else
        add(key, node.is_table() || node.is_array_of_tables()
                     ? unknown_table(tables_, place(key), key.str())
                     : unknown_key(tables_, place(key), nullptr, key.str()));
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

  void read_table(const Table& table, const toml::table& content) {
    for (const auto& [key, node] : content) {
      if (mistakes_.size() >= kMostMistakes) return;
      const Field* field = find(table, key.str());
      if (!field) {
        add(key, unknown_key(tables_, place(key), &table, key.str()));
        continue;
      }
      const std::string full = full_key(table.name, field->key);
      if (assign(field->member, node))
        origin_[full] = place(key);
      else
        add(key, fmt::format("{}: {}: expected {}, got {}", place(key), full, type_name(field->member),
                             what_came(node)));
    }
  }

  std::string place(const toml::key& key) const {
    const auto line = key.source().begin.line;
    return line ? fmt::format("{}:{}", name_, line) : name_;
  }

  void add(const toml::key& key, std::string text) {
    mistakes_.push_back({key.source().begin.line, std::move(text)});
  }

  static constexpr std::size_t kMostMistakes = 20;  // a wrong file should not fill the screen

  const Tables& tables_;
  Origin& origin_;
  const std::string& name_;
  std::vector<Mistake> mistakes_;
};

/// The value behind `--set key=`. It is TOML, except that the quotes of a string and the brackets of an array
/// of one may be left out.
std::optional<toml::table> parse_value(std::string_view given, const Member& wanted) {
  const bool array = std::holds_alternative<std::vector<std::string>*>(wanted);
  const bool string = array || std::holds_alternative<std::string*>(wanted);
  const bool quoted = !given.empty() && (given.front() == '"' || given.front() == '\'');
  const bool listed = given.empty() || given.front() == '[';
  if (given.size() > kMostBytes || std::ranges::count(given, '.') > kMostDots ||
      given.find_first_of("\r\n") != std::string_view::npos)
    return std::nullopt;
  std::string text(given);
  if (string && !quoted && !(array && listed)) text = toml_value(given);
  if (array && !listed) text = '[' + text + ']';
  try {
    return toml::parse("value = " + text);
  } catch (const toml::parse_error&) {
    return std::nullopt;
  }
}

constexpr std::string_view kOverride = "--set ";  // begins the origin of a key that an override gave

void apply_override(const Tables& tables, Origin& origin, const std::string& text) {
  const std::string where = fmt::format("{}{}", kOverride, readable(trimmed(text)));
  const auto equals = text.find('=');
  const std::string_view key = trimmed(std::string_view(text).substr(0, std::min(equals, text.size())));
  if (equals == std::string::npos || key.empty())
    throw RecipeError(where + ": expected key=value, as in --set moe.experts=16");
  const std::string_view value = trimmed(std::string_view(text).substr(equals + 1));

  if (const Table* table = find(tables, key))
    throw RecipeError(
        fmt::format("{}: {} is a table; set one of its keys: {}", where, key, joined(key_names(*table))));
  const auto dot = key.find('.');
  if (dot == std::string_view::npos) throw RecipeError(unknown_key(tables, where, nullptr, key));
  const Table* table = find(tables, key.substr(0, dot));
  if (!table) throw RecipeError(unknown_table(tables, where, key.substr(0, dot)));
  const Field* field = find(*table, key.substr(dot + 1));
  if (!field) throw RecipeError(unknown_key(tables, where, table, key.substr(dot + 1)));
  const auto parsed = parse_value(value, field->member);
  const toml::node* node = parsed ? parsed->get("value") : nullptr;
  if (!node || !assign(field->member, *node))
    throw RecipeError(fmt::format("{}: {}: expected {}, got {}", where, key, type_name(field->member),
                                  node            ? what_came(*node)
                                  : value.empty() ? std::string("nothing")
                                                  : readable(value)));
  origin.insert_or_assign(std::string(key), where);
}

}  // namespace

bool is_override(const Origin& origin, std::string_view key) {
  const auto found = origin.find(key);
  return found != origin.end() && found->second.starts_with(kOverride);
}

std::vector<std::string_view> table_names(const Tables& tables) {
  std::vector<std::string_view> names;
  for (const Table& table : tables) names.push_back(table.name);
  return names;
}

void read(const std::string& text, const std::string& name, const std::vector<std::string>& overrides,
          const Tables& tables, Origin& origin) {
  if (text.size() > kMostBytes)
    throw RecipeError(fmt::format("{}: longer than {} KiB, which no recipe is", name, kMostBytes / 1024));
  if (std::ranges::count(text, '.') > kMostDots)
    throw RecipeError(fmt::format("{}: more than {} dots, which no recipe has", name, kMostDots));
  try {
    Reader(tables, origin, name).read(toml::parse(text));
  } catch (const toml::parse_error& error) {
    const auto& at = error.source().begin;
    throw RecipeError(fmt::format("{}:{}: column {}: {}", name, at.line, at.column, error.description()));
  }
  for (const auto& override_text : overrides) apply_override(tables, origin, override_text);
}

}  // namespace conclave::settings
