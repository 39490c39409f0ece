// The text of a file of settings, such as a recipe.
#pragma once

#include <string>

#include "parallel/communicator.h"

namespace conclave::settings {

/// The bytes of `path`, of a longer file the first settings::kMostBytes + 1; throws RecipeError if it cannot
/// be read. With a `world`, every rank gets the bytes that rank 0 reads, so that all have the same settings
/// and find the same mistakes.
std::string file_text(const std::string& path, Communicator* world);

}  // namespace conclave::settings
