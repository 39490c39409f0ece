// The text of a file of settings, such as a recipe.
#pragma once

#include <cstddef>
#include <string>

#include "parallel/communicator.h"

namespace conclave::settings {

// Ten times the longest recipe there is: a wrong file (a data set, /dev/zero) is refused before it is parsed.
inline constexpr std::size_t kMostBytes = 64 * 1024;

/// The bytes of `path`; throws RecipeError if it cannot be read or has more than kMostBytes.
/// With a `world`, every rank gets the bytes that rank 0 reads, so that all have the same settings and find
/// the same mistakes.
std::string file_text(const std::string& path, Communicator* world);

}  // namespace conclave::settings
