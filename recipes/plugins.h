// What a recipe names that is not the program's own.
#pragma once

#include <string>

#include "parallel/communicator.h"
#include "recipes/recipe.h"

namespace conclave {

/// Loads the plug-ins of run.plugins, and then checks that there are the kinds that moe.expert and
/// moe.router name. A relative path is looked up beside `file` (the recipe, or the checkpoint that has it)
/// and in the working directory; so is the name alone of a file that is not where it was. The recipe's paths
/// become absolute ones. Throws RecipeError with the key's place; collective over `ranks`, if given: where
/// one fails, all do, with the first one's message.
void load_plugins(Recipe& recipe, const std::string& file, Communicator* ranks = nullptr);

}  // namespace conclave
