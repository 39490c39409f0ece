#include "recipes/plot/canvas.h"

#include <algorithm>

namespace conclave {

double estimated_width(std::string_view text, double size) {
  // 0.62 em is the width of a wide letter of DejaVu Sans. Bytes 10xxxxxx continue a code point and are not
  // counted.
  const auto letters = std::ranges::count_if(text, [](char c) { return (c & 0xC0) != 0x80; });
  return 0.62 * size * static_cast<double>(letters);
}

}  // namespace conclave
