// The plug-ins that a recipe, a federation or a simulation names.
#pragma once

#include <string>

#include "parallel/communicator.h"
#include "recipes/settings/federation.h"
#include "recipes/settings/recipe.h"

namespace conclave {

/// Loads the plug-ins of run.plugins, and then checks that the kinds in moe.expert, moe.router and
/// moe.balancer exist, and what the balancer cannot be combined with. A relative path is looked up beside
/// `file` (the recipe) and in the working directory. A file that is not at its path is looked up in both by
/// its name alone. A path that --set gives is taken as it is. The recipe's paths become absolute. Throws
/// RecipeError with the key's place. Collective over `ranks`, if given: if one rank fails, all throw, with
/// the message of the first that failed.
void load_plugins(Recipe& recipe, const std::string& file, Communicator* ranks = nullptr);
/// The same for federation.plugins and simulation.plugins; then check_strategy().
void load_plugins(FederationSettings& settings, const std::string& file);
void load_plugins(SimulationSettings& settings, const std::string& file, Communicator* ranks = nullptr);

}  // namespace conclave
