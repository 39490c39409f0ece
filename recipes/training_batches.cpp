#include "recipes/training_batches.h"

#include "recipes/data_sources.h"

namespace conclave {
namespace {

AugmentationOptions changes_of(const Recipe& recipe) {
  const auto [red, green, blue] = data_source(recipe.data.source).background;
  return {.padding = recipe.image.shift,
          .flip = recipe.image.flip,
          .erase = recipe.image.erase,
          .fill = {red, green, blue},
          .seed = static_cast<std::uint64_t>(recipe.run.seed)};
}

}  // namespace

BatcherOptions training_batches(const Recipe& recipe, const Task& task) {
  return {.tokens = recipe.train.batch_tokens,
          .seed = static_cast<std::uint64_t>(recipe.run.seed),
          .image_tokens = task.image_tokens(),
          .augmentation = task.augments() ? std::optional(changes_of(recipe)) : std::nullopt};
}

}  // namespace conclave
