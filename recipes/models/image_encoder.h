// Images in, a grid of features out: MobileNetV3 (Howard et al. 2019, arXiv:1905.02244), of as many inverted
// residual blocks as a recipe lists.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "autograd/nn/scattering.h"
#include "autograd/nn/vision_layers.h"

namespace conclave {

/// One block, as a recipe has it.
struct ImageBlock {
  Index window = 3;
  Index expansion = 1;
  Index channels = 0;  ///< that come out
  Index stride = 1;
  bool squeeze_excite = false;
  Activation activation = Activation::relu;
};

/// "k5 x4 c40 s2 se hs": a window of 5, 4 times the channels in the middle, 40 that come out, a stride of 2,
/// squeeze-excitation, hard-swish. k, x and c are needed; without the others: stride 1, none, relu. Throws
/// Error, saying what is allowed, where it reads otherwise.
ImageBlock image_block(const std::string& text);

struct ImageEncoderOptions {
  Index stem_channels = 16;  ///< of the first convolution
  Index stem_stride = 1;
  bool scattering = false;  ///< fixed features (autograd/nn/scattering.h) in place of that convolution
  std::vector<std::string> blocks = {"k3 x1 c16", "k3 x4 c24 s2", "k3 x4 c24", "k5 x4 c40 s2 se hs",
                                     "k5 x6 c40 se hs"};
  std::string norm = "group";  ///< or "batch"
  Index group_channels = 8;    ///< of a group that is normalized by itself
  bool depthwise = true;       ///< false: the blocks' twins with full convolutions
  /// All pixels that the blocks leave of images of this size become one, by a linear layer.
  std::optional<Extent> flatten = {};
  /// Of each channel's pixels, where 255 is 1; empty: 0.5.
  std::vector<double> mean = {}, deviation = {};
};

class ImageEncoder : public Module {
 public:
  /// Images of so many channels become `hidden` features. Throws Error where blocks are not as
  /// image_block() and the normalization want them.
  ImageEncoder(const ImageEncoderOptions& options, Index channels, Index hidden);

  /// images [images, height, width, channels] u8, in host memory -> [images, height', width', hidden]: sides
  /// divided by every stride (of scattering, 4), rounded up; 1 x 1 where it flattens.
  Tensor operator()(Tape& tape, const ForwardContext& context, const Tensor& images) const;

  const std::vector<double>& mean() const { return mean_; }
  const std::vector<double>& deviation() const { return deviation_; }

 private:
  // A layer over an image's every pixel and channel.
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
  std::optional<Convolution> stem_;  // one of the two
  std::optional<Scattering> scattering_;
  std::unique_ptr<ImageNorm> stem_norm_;
  std::vector<Block> blocks_;
  std::unique_ptr<Convolution> last_;  // one of the two
  std::unique_ptr<Flatten> flatten_;
  std::unique_ptr<ImageNorm> last_norm_;
};

}  // namespace conclave
