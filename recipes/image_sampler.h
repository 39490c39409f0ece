// Images from texts, in one process: a trained model's velocities, followed from noise.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "data/image.h"
#include "recipes/loaded_model.h"

namespace conclave {

struct SamplerOptions {
  std::int64_t steps = 12;  ///< of the midpoint method, which asks for two velocities in each
  /// How far what a text adds to the velocity is exaggerated: 1 follows the model, 0 leaves the text out.
  double guidance = 3.0;
  std::uint64_t seed = 1;
};

class ImageSampler {
 public:
  /// `model` must outlive the sampler; throws Error where it was not trained to generate.
  ImageSampler(LoadedModel& model, const ProcessGrid& grid);

  /// One image for each text, in order. Image i depends on its text, the options and first + i alone.
  std::vector<Image> sample(std::span<const std::string> texts, const SamplerOptions& options,
                            std::int64_t first = 0);

 private:
  LoadedModel& model_;
  ImageGenerator& generator_;
  Arena activations_;
};

}  // namespace conclave
