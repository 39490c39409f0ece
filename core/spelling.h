// Which valid name is nearest to a mistyped one.
#pragma once

#include <cstddef>
#include <span>
#include <string_view>

namespace conclave {

/// Levenshtein distance: insertions, deletions and replacements of one byte.
std::size_t edit_distance(std::string_view a, std::string_view b);
/// The candidate at the smallest edit distance, the first one in a tie; "" if there are no candidates.
std::string_view nearest(std::string_view name, std::span<const std::string_view> candidates);

}  // namespace conclave
