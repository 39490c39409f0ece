// The layers that image encoders are assembled from. Images are [images, height, width, channels], channels
// last. Weights are channels last, too: PyTorch's [out, in, height, width] is [out, height, width, in] here,
// and [channels, 1, height, width] is [height, width, channels].
#pragma once

#include <memory>
#include <optional>

#include "autograd/nn/layers.h"

namespace conclave {

/// A window of `size` with padding that keeps an image's size, or divides its sides by the stride, rounded
/// up. Throws Error unless `size` is odd.
kernels::Window same_window(Index size, Index stride = 1);

class ImageNorm;

/// Weights are initialized with N(0, 2 / fan out), biases with 0.
class Convolution : public Module, public Quantizable {
 public:
  Convolution(Index in, Index out, const kernels::Window& window = {1, 1, 0}, bool bias = true);
  /// x [images, height, width, in] -> activation(convolution + bias) [images, out height, out width, out]
  Tensor operator()(Tape& tape, const Tensor& x, Activation activation = Activation::none) const;
  /// activation(norm(convolution)), for convolutions without bias. In inference with running mean and
  /// variance, the norm is folded into the weight, so this is one product.
  Tensor normalized(Tape& tape, const ForwardContext& context, const Tensor& x, const ImageNorm& norm,
                    Activation activation = Activation::none) const;
  const Parameter& weight() const { return weight_; }
  const kernels::Window& window() const { return window_; }
  double flops(Extent& extent) const override;
  Kind quantizable_kind() const override { return Kind::convolution; }
  /// With windows of several pixels, all pixels of an image have one scale.
  void quantize(Quantization& shared) override;

 private:
  // If `gain` [out] is defined, multiplies each channel of the convolution by it; only for tapes that do not
  // record.
  Tensor convolve(Tape& tape, const Tensor& x, const Tensor& gain, const Tensor& bias,
                  Activation activation) const;

  kernels::Window window_;
  Parameter& weight_;
  Parameter* bias_;
  std::unique_ptr<Quantizer> quantizer_;  // null: it is not quantized
};

/// One window for each channel, without bias. Weights are initialized with N(0, 2 / fan out), where the fan
/// out of a single channel is the window's size; PyTorch multiplies it by the number of channels, and has
/// smaller weights.
class Depthwise : public Module, public Quantizable {
 public:
  Depthwise(Index channels, const kernels::Window& window);
  Tensor operator()(Tape& tape, const Tensor& x) const;
  /// See Convolution::normalized.
  Tensor normalized(Tape& tape, const ForwardContext& context, const Tensor& x, const ImageNorm& norm,
                    Activation activation = Activation::none) const;
  double flops(Extent& extent) const override;
  Kind quantizable_kind() const override { return Kind::depthwise; }
  /// See Convolution::quantize.
  void quantize(Quantization& shared) override;
  const kernels::Window& window() const { return window_; }

 private:
  // See Convolution::convolve.
  Tensor convolve(Tape& tape, const Tensor& x, const Tensor& gain, const Tensor& bias,
                  Activation activation) const;

  kernels::Window window_;
  Parameter& weight_;
  std::unique_ptr<Quantizer> quantizer_;  // null: it is not quantized
};

/// A normalization of images, with a gain and a bias for each channel.
class ImageNorm : public Module {
 public:
  explicit ImageNorm(Index channels);
  /// x [images, height, width, channels] -> activation(normalized), like x
  virtual Tensor operator()(Tape& tape, const ForwardContext& context, const Tensor& x,
                            Activation activation = Activation::none) const = 0;
  /// y = x gain + shift for each channel; both [channels].
  struct Affine {
    Tensor gain, shift;
  };
  /// The norm as an affine function, if it does not depend on the images; for tapes that do not record.
  virtual std::optional<Affine> affine(Tape& /*tape*/, const ForwardContext& /*context*/) const { return {}; }
  /// The dtype of its parameters.
  DType dtype() const { return gamma_.value.dtype(); }

 protected:
  Parameter& gamma_;
  Parameter& beta_;
};

/// Normalizes over groups of channels of each single image (Wu & He 2018).
class GroupNorm : public ImageNorm {
 public:
  GroupNorm(Index channels, Index groups, double epsilon = 1e-5);
  Tensor operator()(Tape& tape, const ForwardContext& context, const Tensor& x,
                    Activation activation = Activation::none) const override;
  Index groups() const { return groups_; }
  double epsilon() const { return epsilon_; }

 private:
  Index groups_;
  double epsilon_;
};

struct BatchNormOptions {
  double epsilon = 1e-5;
  double momentum = 0.1;  ///< weight of a batch in the running mean and variance
};

/// Normalizes over all images of a micro-batch, on all ranks if the context sums over ranks, and in inference
/// with the running mean and variance (Ioffe & Szegedy 2015). Planning passes do not change the running
/// values.
class BatchNorm : public ImageNorm {
 public:
  explicit BatchNorm(Index channels, BatchNormOptions options = {});
  Tensor operator()(Tape& tape, const ForwardContext& context, const Tensor& x,
                    Activation activation = Activation::none) const override;
  std::optional<Affine> affine(Tape& tape, const ForwardContext& context) const override;
  const BatchNormOptions& options() const { return options_; }

 private:
  BatchNormOptions options_;
  Buffer& running_mean_;
  Buffer& running_variance_;
};

/// The normalization that a model uses.
struct ImageNormOptions {
  enum class Kind : std::uint8_t { group, batch };
  Kind kind = Kind::group;
  Index group_channels = 8;  ///< channels per group
};
/// Throws Error if the group size does not divide the channels.
std::unique_ptr<ImageNorm> make_image_norm(const ImageNormOptions& options, Index channels);

/// Multiplies each channel of an image by a factor in [0, 1] that depends on all channels' means (Hu et al.
/// 2018): hard_sigmoid(excite relu(squeeze mean)), with MobileNetV3's (Howard et al. 2019) quarter of the
/// channels in the middle.
class SqueezeExcite : public Module {
 public:
  explicit SqueezeExcite(Index channels);
  Tensor operator()(Tape& tape, const Tensor& x) const;
  double flops(Extent& extent) const override;

 private:
  Linear squeeze_, excite_;
};

struct InvertedResidualOptions {
  Index in = 0, out = 0;
  Index window = 3, stride = 1;
  Index expansion = 4;  ///< middle channels = expansion x `in`; 1: no expansion
  bool squeeze_excite = false;
  Activation activation = Activation::relu;
  bool depthwise = true;  ///< false: a full convolution of the same window instead
  ImageNormOptions norm = {};
};

/// MobileNet's block (Sandler et al. 2018; Howard et al. 2019): expands the channels of the pixels, applies
/// one window per channel, and projects back. If input and output have the same shape, the input is added to
/// the output.
///
///   activation(norm(expand)) -> activation(norm(depthwise)) -> squeeze_excite -> norm(project) (+ x)
class InvertedResidual : public Module {
 public:
  explicit InvertedResidual(const InvertedResidualOptions& options);
  /// x [images, height, width, in] -> [images, height / stride, width / stride, out], rounded up
  Tensor operator()(Tape& tape, const ForwardContext& context, const Tensor& x) const;
  const InvertedResidualOptions& options() const { return options_; }

 private:
  InvertedResidualOptions options_;
  std::optional<Convolution> expand_;
  std::unique_ptr<ImageNorm> expand_norm_;
  std::optional<Depthwise> depthwise_;  // one of these two is used
  std::optional<Convolution> convolution_;
  std::unique_ptr<ImageNorm> window_norm_;
  std::optional<SqueezeExcite> squeeze_excite_;
  Convolution project_;
  std::unique_ptr<ImageNorm> project_norm_;
};

}  // namespace conclave
