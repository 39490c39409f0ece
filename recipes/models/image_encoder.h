// Images in, a grid of features out: MobileNetV3 (Howard et al. 2019, arXiv:1905.02244), with the inverted
// residual blocks that a recipe lists.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "autograd/nn/scattering.h"
#include "autograd/nn/vision_layers.h"

namespace conclave {

struct ImageEncoderOptions {
  Index stem_channels = 16;  ///< output of the first convolution
  Index stem_stride = 1;
  bool scattering = false;  ///< fixed features (autograd/nn/scattering.h) in place of that convolution
  std::vector<std::string> blocks = {"k3 x1 c16", "k3 x4 c24 s2", "k3 x4 c24", "k5 x4 c40 s2 se hs",
                                     "k5 x6 c40 se hs"};
  std::string norm = "group";  ///< or "batch"
  Index group_channels = 8;    ///< in a group that is normalized by itself
  bool depthwise = true;       ///< false: blocks with full convolutions instead
  /// If set: images have this size after the blocks, and a linear layer turns all their pixels into one.
  std::optional<Extent> flatten = {};
  /// For each channel, with 255 as 1; empty: 0.5.
  std::vector<double> mean = {}, deviation = {};
};

class ImageEncoder : public Module {
 public:
  /// For images with this many channels; the output has `hidden` features. Throws Error if a block is not as
  /// image_block() and the normalization need it.
  ImageEncoder(const ImageEncoderOptions& options, Index channels, Index hidden);

  /// images [images, height, width, channels] u8, in host memory -> [images, height', width', hidden]: sides
  /// divided by every stride (of scattering, 4), rounded up; 1 x 1 with `flatten`.
  Tensor operator()(Tape& tape, const ForwardContext& context, const Tensor& images) const;

  const std::vector<double>& mean() const { return mean_; }
  const std::vector<double>& deviation() const { return deviation_; }

 private:
  // A linear layer over all pixels and channels of an image.
  struct Flatten : Module {
    Flatten(Index in, Index hidden) : all(in, hidden, false) { add_module("", all); }
    double flops(Extent& extent) const override {
      extent = {};
      return all.flops(extent);
    }
    Linear all;
  };
  struct Block {
    std::string name;
    std::unique_ptr<InvertedResidual> layer;
  };

  std::vector<double> mean_, deviation_;
  std::optional<Convolution> stem_;  // either this or scattering_
  std::optional<Scattering> scattering_;
  std::unique_ptr<ImageNorm> stem_norm_;
  std::vector<Block> blocks_;
  std::unique_ptr<Convolution> last_;  // either this or flatten_
  std::unique_ptr<Flatten> flatten_;
  std::unique_ptr<ImageNorm> last_norm_;
};

}  // namespace conclave
