// A text in, an image out, by flow matching (Lipman et al. 2022, arXiv:2210.02747, on the straight paths of
// Liu et al. 2022, arXiv:2209.03003): at time t between 0 and 1 an image is (1 - t) noise + t image, and the
// trunk, which sees it as a grid of patches behind the text, learns the velocity image - noise. From noise,
// following the velocity leads to an image. Texts are hidden at times in training, so that guidance (Ho and
// Salimans 2022, arXiv:2207.12598) can tell what a text adds.
#pragma once

#include <string>

#include "core/random.h"
#include "recipes/models/task.h"
#include "recipes/recipe.h"

namespace conclave {

/// How an image is cut into squares: [images, height, width, channels] <-> [images x patches, size()], the
/// patches of an image from left to right and then downwards, each [side, side, channels].
struct Patches {
  ImageShape image;
  Index side = 1;  ///< divides the image's sides

  Index count() const { return image.height / side * (image.width / side); }
  Index size() const { return side * side * image.channels; }
  /// f32 in host memory, a byte b being b / 127.5 - 1.
  void cut(const Tensor& pixels, const Tensor& patches) const;
  /// Its inverse; what lies beyond 0 and 255 becomes these.
  void join(const Tensor& patches, const Tensor& pixels) const;
};

class ImageGenerator : public Task {
 public:
  /// `trunk` must outlive it. Throws Error where the recipe's patch does not divide the images' sides.
  ImageGenerator(const Recipe& recipe, const ModelSizes& sizes, Trunk& trunk);

  Index image_tokens() const override { return patches_.count(); }
  bool augments() const override { return false; }
  /// The losses are squared errors of an image's velocities, means over its pixels.
  TaskOutput operator()(Tape& tape, ForwardContext& context, const ModelInput& input) override;

  /// The velocity [images x patches, size] of images that are at `noisy`, likewise, and at `times` [images]
  /// f32, both in host memory; of `input`, the texts and offsets. Collective over the expert-parallel group.
  Tensor velocity(Tape& tape, ForwardContext& context, const ModelInput& input, const Tensor& noisy,
                  const Tensor& times);

  const Patches& patches() const { return patches_; }
  /// What stands for every token of a text that is hidden.
  std::int32_t hidden_token() const { return hidden_token_; }

  std::vector<Cost> costs(Index tokens) const override;

 private:
  Tensor hide_texts(Tape& tape, ForwardContext& context, const ModelInput& input) const;

  Trunk& trunk_;
  Patches patches_;
  double text_dropout_;
  std::int32_t hidden_token_;
  Linear patch_in_, time_in_, time_out_, patch_out_;
  Embedding positions_;
};

}  // namespace conclave
