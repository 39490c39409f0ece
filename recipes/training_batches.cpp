#include "recipes/training_batches.h"

namespace conclave {

BatcherOptions training_batches(const Recipe& recipe, const Task& task) {
  const auto seed = static_cast<std::uint64_t>(recipe.run.seed);
  return {.tokens = recipe.train.batch_tokens,
          .seed = seed,
          .image_tokens = task.image_tokens(),
          .augmentation = task.augments() ? std::optional(AugmentationOptions{.padding = recipe.image.shift,
                                                                              .flip = recipe.image.flip,
                                                                              .erase = recipe.image.erase,
                                                                              .seed = seed})
                                          : std::nullopt};
}

}  // namespace conclave
