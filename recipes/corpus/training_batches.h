// The training split's batches.
#pragma once

#include "data/dynamic_batcher.h"
#include "parallel/communicator.h"
#include "recipes/models/task.h"
#include "recipes/settings/recipe.h"

namespace conclave {

/// As the recipe says: shuffled, with random changes of images if the task allows them; for one rank.
BatcherOptions training_batches(const Recipe& recipe, const Task& task);
/// The same for this rank of `world`.
BatcherOptions training_batches(const Recipe& recipe, const Task& task, const Communicator& world);

/// Steps in which a task with a `share` of the micro-batches sees each of its batches once, on average. Not a
/// whole number in general: a step has train.accumulate micro-batches.
double steps_of_epoch(const TrainRecipe& train, std::int64_t batches_per_epoch, double share);
/// The fewest steps that see each batch train.epochs times, at least 1; the last may begin another epoch.
std::int64_t steps_of_epochs(const TrainRecipe& train, double steps_per_epoch);

}  // namespace conclave
