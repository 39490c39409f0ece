// Text in, image out, by flow matching (Lipman et al. 2022, arXiv:2210.02747, on the straight paths of Liu et
// al. 2022, arXiv:2209.03003). At time t between 0 and 1 an image is (1 - t) noise + t image. The trunk sees
// it as a grid of patches, followed by the text, and learns the velocity, image - noise. Following the
// velocity from noise leads to an image. In training some texts are hidden, so that guidance (Ho and Salimans
// 2022, arXiv:2207.12598) can compare velocities with and without a text.
#pragma once

#include <string>

#include "core/random.h"
#include "recipes/models/task.h"
#include "recipes/settings/recipe.h"

namespace conclave {

/// How an image is cut into squares: [images, height, width, channels] <-> [images x patches, size()], the
/// patches of an image from left to right and then downwards, each [side, side, channels].
struct Patches {
  ImageShape image;
  Index side = 1;  ///< divides the image's sides

  Index count() const { return image.height / side * (image.width / side); }
  Index size() const { return side * side * image.channels; }
  /// patches: f32 in host memory, where a byte b is b / 127.5 - 1.
  void cut(const Tensor& pixels, const Tensor& patches) const;
  /// The inverse of cut(); values are clamped to 0 and 255.
  void join(const Tensor& patches, const Tensor& pixels) const;
};

class ImageGenerator : public Task {
 public:
  /// `trunk` must outlive it. Throws Error where the recipe's patch does not divide the images' sides.
  ImageGenerator(const Recipe& recipe, const ModelSizes& sizes, Trunk& trunk);

  Index image_tokens() const override { return patches_.count(); }
  bool augments() const override { return false; }
  /// A loss is the squared error of an image's velocity, a mean over its pixels.
  TaskOutput operator()(Tape& tape, ForwardContext& context, const ModelInput& input) override;

  /// The velocity [images x patches, size] of images that are at `noisy` [images x patches, size] at `times`
  /// [images], f32, both in host memory; `input` gives the texts and offsets. Collective over the
  /// expert-parallel group.
  Tensor velocity(Tape& tape, ForwardContext& context, const ModelInput& input, const Tensor& noisy,
                  const Tensor& times);

  const Patches& patches() const { return patches_; }
  /// Replaces every token of a hidden text.
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
