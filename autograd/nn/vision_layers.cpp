#include "autograd/nn/vision_layers.h"

#include "core/kernels/channels.h"
#include "core/kernels/image_norm.h"

namespace conclave {
namespace {

// Each position of the window multiplies each element of the weight once.
double window_flops(const kernels::Window& window, const Parameter& weight, Extent& extent) {
  extent = {window.positions(extent.height), window.positions(extent.width)};
  return 2 * static_cast<double>(extent.rows() * weight.shape.numel());
}

}  // namespace

kernels::Window same_window(Index size, Index stride) {
  require(size >= 1 && size % 2 == 1, "a window of {} has no pixel in the middle; its size must be odd",
          size);
  return {size, stride, size / 2};
}

Convolution::Convolution(Index in, Index out, const kernels::Window& window, bool bias)
    : window_(window),
      weight_(add_parameter("weight", {out, window.size, window.size, in},
                            Initializer::fan_out(out * window.size * window.size))),
      bias_(bias ? &add_parameter("bias", {out}, Initializer::constant(0), false) : nullptr) {}

void Convolution::quantize(Quantization& shared) {
  quantizer_ = std::make_unique<Quantizer>(shared, weight_);
  add_module("", *quantizer_);
}

Tensor Convolution::operator()(Tape& tape, const Tensor& x, Activation activation) const {
  return convolve(tape, x, Tensor(), bias_ ? bias_->value : Tensor(), activation);
}

Tensor Convolution::normalized(Tape& tape, const ForwardContext& context, const Tensor& x,
                               const ImageNorm& norm, Activation activation) const {
  const auto affine = bias_ ? std::nullopt : norm.affine(tape, context);
  return affine ? convolve(tape, x, affine->gain, affine->shift, activation)
                : norm(tape, context, (*this)(tape, x), activation);
}

Tensor Convolution::convolve(Tape& tape, const Tensor& x, const Tensor& gain, const Tensor& bias,
                             Activation activation) const {
  const auto scaled = [&](const Tensor& weight) {
    return gain.defined() ? functions::scale_rows(tape, weight, gain) : weight;
  };
  const Tensor& weight = weight_.value;
  if (window_.size > 1 || window_.stride > 1) {
    return quantizer_ ? quantizer_->convolution(tape, x, window_, weight, bias, activation, gain)
                      : functions::convolution(tape, x, scaled(weight), bias, window_, activation);
  }
  // For windows of one pixel, the pixels already are the rows that a convolution would copy its windows to.
  kernels::expect_rank("convolution", "x", x, 4);
  const Index pixels = x.size(0) * x.size(1) * x.size(2), out = weight.size(0);
  const Tensor rows = functions::reshape(x, {pixels, x.size(3)}),
               matrix = functions::reshape(weight, {out, weight.size(3)});
  const Tensor y = quantizer_ ? quantizer_->linear(tape, rows, matrix, bias, activation, gain)
                              : functions::linear(tape, rows, scaled(matrix), bias, activation);
  return functions::reshape(y, {x.size(0), x.size(1), x.size(2), out});
}

double Convolution::flops(Extent& extent) const { return window_flops(window_, weight_, extent); }

Depthwise::Depthwise(Index channels, const kernels::Window& window)
    : window_(window),
      weight_(add_parameter("weight", {window.size, window.size, channels},
                            Initializer::fan_out(window.size * window.size))) {}

Tensor Depthwise::operator()(Tape& tape, const Tensor& x) const {
  return convolve(tape, x, Tensor(), Tensor(), Activation::none);
}

void Depthwise::quantize(Quantization& shared) {
  quantizer_ = std::make_unique<Quantizer>(shared, weight_, QuantizedGroups{}, true);
  add_module("", *quantizer_);
}

Tensor Depthwise::normalized(Tape& tape, const ForwardContext& context, const Tensor& x,
                             const ImageNorm& norm, Activation activation) const {
  const auto affine = norm.affine(tape, context);
  return affine ? convolve(tape, x, affine->gain, affine->shift, activation)
                : norm(tape, context, (*this)(tape, x), activation);
}

Tensor Depthwise::convolve(Tape& tape, const Tensor& x, const Tensor& gain, const Tensor& bias,
                           Activation activation) const {
  if (quantizer_) return quantizer_->convolution(tape, x, window_, weight_.value, bias, activation, gain);
  const Tensor weight = gain.defined() ? functions::scale_last(tape, weight_.value, gain) : weight_.value;
  return functions::depthwise(tape, x, weight, window_, bias, activation);
}

double Depthwise::flops(Extent& extent) const { return window_flops(window_, weight_, extent); }

ImageNorm::ImageNorm(Index channels)
    : gamma_(add_parameter("weight", {channels}, Initializer::constant(1), false)),
      beta_(add_parameter("bias", {channels}, Initializer::constant(0), false)) {}

GroupNorm::GroupNorm(Index channels, Index groups, double epsilon)
    : ImageNorm(channels), groups_(groups), epsilon_(epsilon) {}

Tensor GroupNorm::operator()(Tape& tape, const ForwardContext& /*context*/, const Tensor& x,
                             Activation activation) const {
  return functions::group_norm(tape, x, gamma_.value, beta_.value, groups_, epsilon_, activation);
}

BatchNorm::BatchNorm(Index channels, BatchNormOptions options)
    : ImageNorm(channels),
      options_(options),
      running_mean_(add_buffer("running_mean", {channels}, 0)),
      running_variance_(add_buffer("running_var", {channels}, 1)) {}

Tensor BatchNorm::operator()(Tape& tape, const ForwardContext& context, const Tensor& x,
                             Activation activation) const {
  const functions::BatchNormState state{.running_mean = running_mean_.values,
                                        .running_variance = running_variance_.values,
                                        .momentum = tape.planning() ? 0 : options_.momentum,
                                        .epsilon = options_.epsilon,
                                        .images = context.global_images,
                                        .add_up = context.add_up,
                                        .context = context.add_up_context};
  return functions::batch_norm(tape, x, gamma_.value, beta_.value, state, context.training, activation);
}

std::optional<ImageNorm::Affine> BatchNorm::affine(Tape& tape, const ForwardContext& context) const {
  if (context.training || tape.recording()) return std::nullopt;
  const Index channels = gamma_.value.numel();
  const auto row = [&] { return tape.empty({1, channels}, gamma_.value.dtype()); };
  const Tensor gain = row(), shift = row(), mean = row(), rstd = row();
  kernels::batch_norm_running_table(running_mean_.values, running_variance_.values, options_.epsilon,
                                    gamma_.value, mean, rstd, gain);
  shift.zero();  // the shift is the norm's output for input 0
  kernels::scale_channels(shift, mean, gain, beta_.value.reshape({1, channels}), Activation::none, shift,
                          Tensor());
  return Affine{gain.reshape({channels}), shift.reshape({channels})};
}

std::unique_ptr<ImageNorm> make_image_norm(const ImageNormOptions& options, Index channels) {
  if (options.kind == ImageNormOptions::Kind::batch) return std::make_unique<BatchNorm>(channels);
  require(options.group_channels >= 1 && channels % options.group_channels == 0,
          "group normalization: groups of {} channels do not divide {} channels", options.group_channels,
          channels);
  return std::make_unique<GroupNorm>(channels, channels / options.group_channels);
}

SqueezeExcite::SqueezeExcite(Index channels)
    : squeeze_(channels, std::max<Index>(channels / 4, 1)),
      excite_(std::max<Index>(channels / 4, 1), channels) {
  add_module("squeeze", squeeze_);
  add_module("excite", excite_);
}

Tensor SqueezeExcite::operator()(Tape& tape, const Tensor& x) const {
  kernels::expect_rank("squeeze_excite", "x", x, 4);
  const Index images = x.size(0), pixels = x.size(1) * x.size(2);
  const Tensor mean = functions::segment_mean(tape, functions::reshape(x, {images * pixels, x.size(3)}),
                                              tape.on_device(functions::even_offsets(tape, images, pixels)));
  const Tensor squeezed = squeeze_(tape, mean, Activation::relu);
  return functions::scale_channels(tape, x, excite_(tape, squeezed, Activation::hard_sigmoid));
}

double SqueezeExcite::flops(Extent& /*extent*/) const {
  Extent mean;
  return squeeze_.flops(mean) + excite_.flops(mean);
}

InvertedResidual::InvertedResidual(const InvertedResidualOptions& options)
    : options_(options), project_(options.in * options.expansion, options.out, {1, 1, 0}, false) {
  const Index middle = options.in * options.expansion;
  const kernels::Window window = same_window(options.window, options.stride);
  const auto norm = [&](const char* name, std::unique_ptr<ImageNorm>& member, Index channels) {
    member = make_image_norm(options.norm, channels);
    add_module(name, *member);
  };
  if (options.expansion > 1) {
    add_module("expand", expand_.emplace(options.in, middle, kernels::Window{1, 1, 0}, false));
    norm("expand_norm", expand_norm_, middle);
  }
  if (options.depthwise)
    add_module("depthwise", depthwise_.emplace(middle, window));
  else
    add_module("convolution", convolution_.emplace(middle, middle, window, false));
  norm("window_norm", window_norm_, middle);
  if (options.squeeze_excite) add_module("squeeze_excite", squeeze_excite_.emplace(middle));
  add_module("project", project_);
  norm("project_norm", project_norm_, options.out);
}

Tensor InvertedResidual::operator()(Tape& tape, const ForwardContext& context, const Tensor& x) const {
  Tensor y = x;
  if (expand_) y = expand_->normalized(tape, context, y, *expand_norm_, options_.activation);
  y = depthwise_ ? depthwise_->normalized(tape, context, y, *window_norm_, options_.activation)
                 : convolution_->normalized(tape, context, y, *window_norm_, options_.activation);
  if (squeeze_excite_) y = (*squeeze_excite_)(tape, y);
  y = project_.normalized(tape, context, y, *project_norm_);
  const bool same = options_.stride == 1 && options_.in == options_.out;
  return same ? functions::add(tape, x, y) : y;
}

}  // namespace conclave
