#include "core/text_line.h"

namespace conclave {

std::string one_line(std::string_view text, std::size_t columns) {
  constexpr std::string_view kMore = "...";
  std::string line;
  std::size_t used = 0, cut = 0;  // cut: where the line ends if it proves too long
  bool blank = false, word_end = false;
  const std::size_t room = columns > kMore.size() ? columns - kMore.size() : 0;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte <= 0x20 || byte == 0x7F) {
      blank = !line.empty();
      continue;
    }
    const bool starts = (byte & 0xC0) != 0x80;  // a code point
    if (starts) {
      if (blank && used <= room) cut = line.size(), word_end = true;
      if (!word_end && used <= room) cut = line.size();
      used += blank ? 2 : 1;
      if (used > columns) return line.substr(0, cut).append(kMore.substr(0, columns));
      if (blank) line += ' ';
      blank = false;
    }
    line += c;
  }
  return line;
}

}  // namespace conclave
