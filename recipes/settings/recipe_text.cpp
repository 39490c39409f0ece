#include "recipes/settings/recipe_text.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace conclave::recipe_text {
namespace {

std::string escaped(std::string_view text) {
  std::string out;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (byte < 0x20 || byte == 0x7f) {
      out += fmt::format("\\u{:04X}", byte);
    } else {
      out += c;
    }
  }
  return out;
}

}  // namespace

std::string toml_value(std::int64_t value) { return fmt::format("{}", value); }

std::string toml_value(bool value) { return value ? "true" : "false"; }

std::string toml_value(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value < 0 ? "-inf" : "inf";
  std::string text = fmt::format("{}", value);
  if (text.find_first_of(".e") == std::string::npos) text += ".0";  // TOML tells 3.0 from 3
  return text;
}

std::string toml_value(std::string_view value) { return '"' + escaped(value) + '"'; }

std::string toml_value(const std::vector<std::string>& values) {
  std::string text;
  for (const std::string& value : values) text += (text.empty() ? "" : ", ") + toml_value(value);
  return '[' + text + ']';
}

std::string readable(std::string_view text) {
  constexpr std::size_t kMost = 80;
  if (text.size() <= kMost) return escaped(text);
  std::size_t end = kMost;
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80) --end;  // whole UTF-8 characters
  return escaped(text.substr(0, end)) + "...";
}

std::string joined(std::span<const std::string_view> names) {
  return fmt::format("{}", fmt::join(names, ", "));
}

std::string joined(const std::vector<std::int64_t>& numbers) {
  return fmt::format("{}", fmt::join(numbers, ", "));
}

}  // namespace conclave::recipe_text
