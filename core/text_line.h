// Texts of any length and kind, on one line of limited width.
#pragma once

#include <string>
#include <string_view>

namespace conclave {

/// `text` (UTF-8) in at most `columns` code points: runs of blanks, newlines and control characters become
/// one blank, and what is too long ends in "..." after a whole word, or within the first word if need be.
std::string one_line(std::string_view text, std::size_t columns);

}  // namespace conclave
