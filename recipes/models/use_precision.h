// How precisely a recipe's model multiplies matrices.
#pragma once

#include <string>

#include "core/device.h"
#include "recipes/settings/recipe.h"

namespace conclave {

/// Sets run.precision for all threads of this process.
void use_precision(const RunRecipe& run);
/// What run.precision means on `device`, for a message: "" for f32, ", products in bf16", or, on the CPU,
/// that the key has no effect there.
std::string describe_precision(const RunRecipe& run, Device device);

}  // namespace conclave
