// How the training split is cut into batches.
#pragma once

#include "data/dynamic_batcher.h"
#include "recipes/models/task.h"
#include "recipes/recipe.h"

namespace conclave {

/// As the recipe has it: shuffled, images changed at random where the task allows that; for one rank.
BatcherOptions training_batches(const Recipe& recipe, const Task& task);

}  // namespace conclave
