// Images from texts: a trained model's velocities, followed from noise.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "data/image.h"
#include "recipes/loaded_model.h"
#include "recipes/sampler_options.h"

namespace conclave {

class ImageSampler {
 public:
  static constexpr std::size_t kImages = 16;  ///< per pass: more no longer fit the second-level cache

  /// `model` must outlive the sampler; throws Error where it was not trained to generate.
  ImageSampler(LoadedModel& model, const ProcessGrid& grid);

  /// One image for each text, in order. Image i depends on its text, the options and first + i alone. For one
  /// process.
  std::vector<Image> sample(std::span<const std::string> texts, const SamplerOptions& options,
                            std::int64_t first = 0);

  /// An image to draw, which depends on these and on the options but their seed.
  struct Drawing {
    std::span<const std::int32_t> tokens;  ///< of its text
    std::uint64_t seed = 1;
    std::int64_t number = 0;
  };
  /// Begins at most kImages drawings, maybe none, on this rank -> pixels [drawings, bytes of one], which
  /// step() writes in the end. Once warm neither allocates anything.
  void begin(std::span<const Drawing> drawings, const SamplerOptions& options,
             std::span<std::uint8_t> pixels);
  /// One of the options' steps; false after the last. Collective over the expert-parallel group.
  bool step();
  /// Whether passes are only to tell the experts' dispatchers what room they need: on several ranks the first
  /// one is to be such, of a batch as large as there will be. Its results are worth nothing.
  void set_planning(bool planning) { planning_ = planning; }
  const ImageShape& shape() const { return generator_.patches().image; }
  Index image_tokens() const { return generator_.patches().count(); }

 private:
  void follow(const std::vector<float>& at, double time, double step, std::vector<float>& to);

  LoadedModel& model_;
  ImageGenerator& generator_;
  Arena activations_;
  bool alone_, planning_ = false;
  Batch batch_;
  std::vector<std::int32_t> hidden_;
  std::vector<float> x_, middle_, noisy_, times_;
  // What is drawn, and how many of its steps were taken.
  SamplerOptions options_;
  std::span<std::uint8_t> pixels_;
  std::int64_t steps_ = 0;
};

}  // namespace conclave
