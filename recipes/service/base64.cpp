#include "recipes/service/base64.h"

#include <array>
#include <cstdint>

namespace conclave::service {
namespace {

constexpr std::string_view kLetters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

constexpr std::array<std::int8_t, 256> values() {
  std::array<std::int8_t, 256> table{};
  table.fill(-1);
  for (std::size_t i = 0; i < kLetters.size(); ++i)
    table[static_cast<unsigned char>(kLetters[i])] = static_cast<std::int8_t>(i);
  return table;
}

}  // namespace

std::string to_base64(std::string_view bytes) {
  std::string letters;
  letters.reserve((bytes.size() + 2) / 3 * 4);
  for (std::size_t i = 0; i < bytes.size(); i += 3) {
    std::uint32_t bits = 0;
    for (std::size_t k = 0; k < 3; ++k)
      bits = bits << 8 | (i + k < bytes.size() ? static_cast<unsigned char>(bytes[i + k]) : 0);
    for (std::size_t k = 0; k < 4; ++k)
      letters += i + k <= bytes.size() ? kLetters[bits >> (18 - 6 * k) & 63] : '=';
  }
  return letters;
}

std::optional<std::string> from_base64(std::string_view letters) {
  static constexpr auto kValues = values();
  std::string bytes;
  bytes.reserve(letters.size() / 4 * 3);
  std::uint32_t bits = 0;
  std::size_t count = 0, padding = 0;
  for (const char letter : letters) {
    if (letter == '\n' || letter == '\r') continue;
    const std::int8_t value = kValues[static_cast<unsigned char>(letter)];
    if (letter == '=' ? ++padding > 2 : value < 0 || padding > 0) return std::nullopt;
    bits = bits << 6 | static_cast<std::uint32_t>(letter == '=' ? 0 : value);
    if (++count % 4 != 0) continue;
    for (std::size_t k = 0; k < 3 - padding; ++k) bytes += static_cast<char>(bits >> (16 - 8 * k) & 0xFF);
  }
  if (count % 4 != 0) return std::nullopt;
  return bytes;
}

}  // namespace conclave::service
