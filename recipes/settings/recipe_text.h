// How keys and values look in TOML and in messages.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace conclave::recipe_text {

/// A value as TOML; doubles in the fewest digits that read back to the same bits.
std::string toml_value(std::int64_t value);
std::string toml_value(double value);
std::string toml_value(bool value);
std::string toml_value(std::string_view value);
inline std::string toml_value(const std::string& value) { return toml_value(std::string_view(value)); }
std::string toml_value(const std::vector<std::string>& values);
inline std::string toml_value(const char* value) = delete;  // would become a bool

/// `text` fit for a terminal: at most its first 80 bytes, in whole characters, with control characters
/// escaped.
std::string readable(std::string_view text);

/// "a, b, c".
std::string joined(std::span<const std::string_view> names);
std::string joined(const std::vector<std::int64_t>& numbers);

}  // namespace conclave::recipe_text
