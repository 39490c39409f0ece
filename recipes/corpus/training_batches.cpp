#include "recipes/corpus/training_batches.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "recipes/settings/data_sources.h"

namespace conclave {
namespace {

AugmentationOptions changes_of(const Recipe& recipe) {
  const auto [red, green, blue] = data_source(recipe.data.source).background;
  return {.padding = recipe.image.shift,
          .flip = recipe.image.flip,
          .erase = recipe.image.erase,
          .fill = {red, green, blue}};
}

}  // namespace

BatcherOptions training_batches(const Recipe& recipe, const Task& task) {
  return {.tokens = recipe.train.batch_tokens,
          .seed = static_cast<std::uint64_t>(recipe.run.seed),
          .image_tokens = task.image_tokens(),
          .augmentation = task.augments() ? std::optional(changes_of(recipe)) : std::nullopt};
}

BatcherOptions training_batches(const Recipe& recipe, const Task& task, const Communicator& world) {
  BatcherOptions options = training_batches(recipe, task);
  options.rank = world.rank();
  options.ranks = world.size();
  return options;
}

double steps_of_epoch(const TrainRecipe& train, std::int64_t batches_per_epoch, double share) {
  return static_cast<double>(batches_per_epoch) / static_cast<double>(train.accumulate) / share;
}

std::int64_t steps_of_epochs(const TrainRecipe& train, double steps_per_epoch) {
  constexpr double kRounding = 1e-9;   // shares such as 1/3 are rounded, which must not add a step
  constexpr double kMostSteps = 1e12;  // as of train.steps
  const double steps = static_cast<double>(train.epochs) * steps_per_epoch;
  require(steps <= kMostSteps,
          "train.epochs = {} would be {:.3g} steps, and there may be {:.0e}; set train.steps, or give the "
          "first task of [tasks] a larger weight",
          train.epochs, steps, kMostSteps);
  return std::max<std::int64_t>(static_cast<std::int64_t>(std::ceil(steps * (1 - kRounding))), 1);
}

}  // namespace conclave
