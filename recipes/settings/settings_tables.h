// The tables and fields of a file of settings: what reads, checks and writes settings sees only these lists,
// and not the structs behind them.
#pragma once

#include <cstdint>
#include <limits>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace conclave::settings {

/// The values that a field may have: numbers within [least, most]; strings among `allowed` (any, if empty);
/// in an array, each string is checked, or the whole for OwnOptions (core/own_options.h).
struct Rule {
  double least = -std::numeric_limits<double>::infinity();
  double most = std::numeric_limits<double>::infinity();
  std::vector<std::string_view> allowed = {};
  bool may_be_empty = true;
  bool named_values = false;
};

inline Rule between(double least, double most) { return {.least = least, .most = most}; }
inline Rule at_least(double least) { return {.least = least}; }
inline Rule one_of(std::vector<std::string_view> values) { return {.allowed = std::move(values)}; }
inline Rule any_text() { return {}; }
inline Rule named_values() { return {.named_values = true}; }
inline Rule not_empty() { return {.may_be_empty = false}; }

/// The member of a struct that a field fills.
using Member = std::variant<std::int64_t*, double*, bool*, std::string*, std::vector<std::string>*>;

struct Field {
  std::string_view key;
  Member member;
  std::string doc;  ///< one line, without a full stop at its end
  Rule rule;
};

struct Table {
  std::string_view name;
  std::string_view about;
  std::vector<Field> fields;
};

/// All tables of a struct of settings, with pointers into it.
using Tables = std::vector<Table>;

/// For each key that a user gave ("moe.experts"): where. "quick.toml:12", or "--set moe.experts=16".
using Origin = std::map<std::string, std::string, std::less<>>;

/// Collects the fields of a table: field(key, member, doc, rule).
class FieldList {
 public:
  explicit FieldList(Table& table) : table_(table) {}

  template <class T>
  void operator()(std::string_view key, T& member, std::string doc, Rule rule) {
    add({key, &member, std::move(doc), std::move(rule)});
  }

 private:
  void add(Field field) { table_.fields.push_back(std::move(field)); }

  Table& table_;
};

/// Collects the tables of a struct: table(name, members, about), by the function fields(members, FieldList&).
class TableList {
 public:
  template <class Members>
  void operator()(std::string_view name, Members& members, std::string_view about) {
    FieldList list(tables_.emplace_back(Table{name, about, {}}));
    fields(members, list);
  }

  Tables take() && { return std::move(tables_); }

 private:
  Tables tables_;
};

}  // namespace conclave::settings
