// The training split's batches.
#pragma once

#include "data/dynamic_batcher.h"
#include "recipes/models/task.h"
#include "recipes/recipe.h"

namespace conclave {

/// As the recipe says: shuffled, with random changes of images if the task allows them; for one rank.
BatcherOptions training_batches(const Recipe& recipe, const Task& task);

}  // namespace conclave
