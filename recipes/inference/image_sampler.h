// Draws images for texts: follows a trained model's velocities from noise to an image.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "data/image.h"
#include "recipes/inference/sampler_options.h"
#include "recipes/models/loaded_model.h"

namespace conclave {

class ImageSampler {
 public:
  static constexpr std::size_t kImages = 16;  ///< per pass; more would not fit into the second-level cache

  /// `model` must outlive the sampler; throws Error where it was not trained to generate.
  ImageSampler(LoadedModel& model, const ProcessGrid& grid);

  /// One image for each text, in order. Image i depends only on its text, the options and first + i. For one
  /// process.
  std::vector<Image> sample(std::span<const std::string> texts, const SamplerOptions& options,
                            std::int64_t first = 0);

  /// An image to draw. It depends on these members and on all options except the seed.
  struct Drawing {
    std::span<const std::int32_t> tokens;  ///< of its text
    std::uint64_t seed = 1;
    std::int64_t number = 0;
  };
  /// Begins up to kImages drawings (there may be none) on this rank. The last step() writes pixels [drawings,
  /// bytes of one]. Once warm, neither function allocates.
  void begin(std::span<const Drawing> drawings, const SamplerOptions& options,
             std::span<std::uint8_t> pixels);
  /// Takes one of the options' steps; returns false after the last. Collective over the expert-parallel
  /// group.
  bool step();
  /// For services: allocates the memory of all that begin() and step() do from now on, for texts of at most
  /// `tokens` tokens. Returns its bytes. Without plan(), memory grows with the batches, on a device within a
  /// block of most of its free memory. Collective; on several ranks, call it before the first drawing. Call
  /// it again if a dispatcher's buffer has grown since.
  std::size_t plan(Index tokens);
  const ImageShape& shape() const { return generator_.patches().image; }
  Index image_tokens() const { return generator_.patches().count(); }

 private:
  void follow(const std::vector<float>& at, double time, double step, std::vector<float>& to);

  LoadedModel& model_;
  ImageGenerator& generator_;
  Device device_;
  std::optional<Arena> activations_;
  bool alone_, planning_ = false;
  Batch batch_;
  std::vector<std::int32_t> hidden_;
  std::vector<float> x_, middle_, noisy_, times_;
  // The drawings in progress, and the number of steps taken.
  SamplerOptions options_;
  std::span<std::uint8_t> pixels_;
  std::int64_t steps_ = 0;
};

}  // namespace conclave
