// How precisely a recipe's model multiplies matrices.
#pragma once

#include <string>

#include "core/device.h"
#include "recipes/recipe.h"

namespace conclave {

/// Sets run.precision, for all threads of this process, and returns what that means on `device`, where it is
/// not f32: ", products in bf16"; on processors, that they take no notice.
std::string use_precision(const RunRecipe& run, Device device);

}  // namespace conclave
