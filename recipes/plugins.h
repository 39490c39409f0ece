// What a recipe names that is not the program's own.
#pragma once

#include <string>

#include "recipes/recipe.h"

namespace conclave {

/// Loads the plug-ins of run.plugins, and then checks that there are the kinds of experts that moe.expert
/// names. A relative path is looked up beside `file` (the recipe, or the checkpoint that has it) and in the
/// working directory; so is the name alone of a file that is not where it was. The recipe's paths become
/// absolute ones. Throws Error, where a plug-in cannot be had, or RecipeError, both with the key's place.
void load_plugins(Recipe& recipe, const std::string& file);

}  // namespace conclave
