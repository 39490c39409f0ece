#include "recipes/models/image_encoder.h"

#include "core/kernels/pixels.h"
#include "recipes/settings/image_block.h"

namespace conclave {
namespace {

constexpr Index kScatteringGroup =
    3;  // features that are normalized together, which makes 27 groups, as Tramer and Boneh have

ImageNormOptions norm_of(const ImageEncoderOptions& options) {
  require(options.norm == "group" || options.norm == "batch",
          "no normalization of images is named '{}'; there are group, batch", options.norm);
  return {options.norm == "group" ? ImageNormOptions::Kind::group : ImageNormOptions::Kind::batch,
          options.group_channels};
}

std::vector<double> of_channels(const std::vector<double>& values, Index channels) {
  return values.empty() ? std::vector(static_cast<std::size_t>(channels), 0.5) : values;
}

}  // namespace

ImageEncoder::ImageEncoder(const ImageEncoderOptions& options, Index channels, Index hidden)
    : mean_(of_channels(options.mean, channels)), deviation_(of_channels(options.deviation, channels)) {
  const ImageNormOptions norm = norm_of(options);
  ImageNormOptions stem_norm = norm;
  Index in = options.stem_channels;
  if (options.scattering) {
    in = channels * Scattering::kFeatures;
    stem_norm.group_channels = kScatteringGroup;
    add_module("stem", scattering_.emplace());
  } else {
    add_module("stem", stem_.emplace(channels, in, same_window(3, options.stem_stride), false));
  }
  stem_norm_ = make_image_norm(stem_norm, in);
  add_module("stem_norm", *stem_norm_);
  for (const std::string& text : options.blocks) {
    const ImageBlock block = image_block(text);
    const std::string name = "blocks." + std::to_string(blocks_.size());
    try {
      blocks_.push_back({"image." + name, std::make_unique<InvertedResidual>(
                                              InvertedResidualOptions{.in = in,
                                                                      .out = block.channels,
                                                                      .window = block.window,
                                                                      .stride = block.stride,
                                                                      .expansion = block.expansion,
                                                                      .squeeze_excite = block.squeeze_excite,
                                                                      .activation = block.activation,
                                                                      .depthwise = options.depthwise,
                                                                      .norm = norm})});
    } catch (const Error& error) {
      fail("image block \"{}\", of {} channels that come in: {}", text, in, error.what());
    }
    add_module(name, *blocks_.back().layer);
    in = block.channels;
  }
  if (options.flatten) {
    Extent extent = *options.flatten;
    flops(extent);  // sets `extent` to the size after the blocks
    add_module("last", *(flatten_ = std::make_unique<Flatten>(extent.rows() * in, hidden)));
  } else {
    add_module("last", *(last_ = std::make_unique<Convolution>(in, hidden, kernels::Window{1, 1, 0}, false)));
  }
  last_norm_ = make_image_norm(norm, hidden);
  add_module("last_norm", *last_norm_);
}

Tensor ImageEncoder::operator()(Tape& tape, const ForwardContext& context, const Tensor& images) const {
  tape.enter("image.stem");
  Tensor x;
  if (scattering_) {
    const Tensor features = (*scattering_)(tape, images, stem_norm_->dtype());
    x = (*stem_norm_)(tape, context, tape.on_device(features));
  } else {
    const Tensor pixels = tape.arena().empty_on_host(images.shape(), stem_norm_->dtype());
    kernels::pixels_to_floats(images, mean_, deviation_, pixels);
    x = stem_->normalized(tape, context, tape.on_device(pixels), *stem_norm_, Activation::hard_swish);
  }
  for (const auto& [name, layer] : blocks_) {
    tape.enter(name.c_str());
    const Arena::Bytes mark = tape.arena().mark();
    x = tape.keep_only((*layer)(tape, context, x), mark);
  }
  tape.enter("image.last");
  if (flatten_) {
    const Tensor rows = functions::reshape(x, {x.size(0), x.size(1) * x.size(2) * x.size(3)});
    const Tensor whole = flatten_->all(tape, rows);
    return (*last_norm_)(tape, context, functions::reshape(whole, {x.size(0), 1, 1, whole.size(1)}),
                         Activation::hard_swish);
  }
  return last_->normalized(tape, context, x, *last_norm_, Activation::hard_swish);
}

}  // namespace conclave
