// The text of a recipe's file, or of one of settings.
#pragma once

#include <string>

#include "parallel/communicator.h"

namespace conclave::settings {

/// The bytes of `path`; throws RecipeError where it cannot be read, or is far too long. With a `world`, those
/// that its rank 0 reads, on every rank, whose settings are thus the same, and so are the mistakes found.
std::string file_text(const std::string& path, Communicator* world);

}  // namespace conclave::settings
