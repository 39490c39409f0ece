#include "core/spelling.h"

#include <algorithm>
#include <numeric>
#include <utility>
#include <vector>

namespace conclave {

std::size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<std::size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), std::size_t{0});
  for (std::size_t i = 1; i <= a.size(); ++i) {
    std::size_t diagonal = std::exchange(row[0], i);
    for (std::size_t j = 1; j <= b.size(); ++j) {
      const std::size_t replaced = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
      diagonal = std::exchange(row[j], std::min({row[j] + 1, row[j - 1] + 1, replaced}));
    }
  }
  return row[b.size()];
}

std::string_view nearest(std::string_view name, std::span<const std::string_view> candidates) {
  const auto distance = [&](std::string_view candidate) { return edit_distance(name, candidate); };
  const auto found = std::ranges::min_element(candidates, {}, distance);
  return found == candidates.end() ? std::string_view{} : *found;
}

}  // namespace conclave
