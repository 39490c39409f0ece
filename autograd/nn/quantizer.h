// What rounds a product's input and weight as inference with integers will: the part that a layer has beside
// its own parameters once its model is to be quantized. Weights have a scale for each output channel and
// symmetric levels; inputs one for each row, or, from an observer, one for all rows or for those of each
// expert, and levels from zero on.
#pragma once

#include <optional>
#include <utility>
#include <vector>

#include "autograd/functions/functions.h"
#include "autograd/nn/range_observer.h"
#include "core/kernels/integer_product.h"

namespace conclave {

class Quantizer;

struct QuantizationOptions {
  int weight_bits = 8;
  /// 7: the sum of two products with a weight fits 16 bits, as processors without VNNI add them up.
  int activation_bits = 7;
  bool per_token = true;  ///< inputs' scales; false: from an observer
  bool learned = false;  ///< scales of weights, and of inputs where they are not per token, are learned (LSQ)
  ObserverOptions observer = {};

  QuantLevels weight_levels() const { return QuantLevels::symmetric(weight_bits); }
  QuantLevels activation_levels() const { return QuantLevels::affine(activation_bits); }
};

/// What all quantizers of a model have in common, and those that have something to observe. It outlives them.
struct Quantization {
  QuantizationOptions options = {};
  bool rounds = false;      ///< else products are what they are without
  bool calibrates = false;  ///< passes that are not recorded are observed, too
  /// Such passes multiply integers; but depthwise convolutions do in host memory alone. Weights are packed
  /// when they are first met, and must then stay as they are.
  bool integers = false;
  /// Inference is meant to, so that what cannot be is refused before anything is trained.
  bool for_integers = false;
  std::vector<Quantizer*> quantizers = {};
  std::vector<RangeObserver*> observers = {};  ///< theirs
};

/// Of which a quantizer's layer has this rank's groups.
struct QuantizedGroups {
  Index total = 1, first = 0, count = 1;
  bool sharded = false;  ///< over ranks, as experts are
};

class Quantizer : public Module {
 public:
  /// For a weight [groups.count, out, in], or without experts [out, ...], which outlives it; or, if
  /// `channels_last`, [..., out]. Throws Error where it is meant for integers, and has more inputs than they
  /// can add up.
  Quantizer(Quantization& shared, const Parameter& weight, const QuantizedGroups& groups = {},
            bool channels_last = false);

  /// x [rows, in], whose rows `offsets` divides among this rank's groups, rounded.
  Tensor input(Tape& tape, const Tensor& x, kernels::RowOffsets offsets);
  /// The weight, rounded.
  Tensor weight(Tape& tape, const Tensor& weight);

  /// As functions::grouped_linear, of rounded numbers.
  Tensor product(Tape& tape, const Tensor& x, kernels::RowOffsets offsets, const Tensor& weight,
                 const Tensor& bias, Activation activation);
  /// next.product() of what product() gives, without an activation. Where both multiply integers, and the
  /// inputs of `next` have observed scales, what is between them is in integers only.
  Tensor products(Tape& tape, const Tensor& x, kernels::RowOffsets offsets, const Tensor& weight,
                  const Tensor& bias, Activation activation, Quantizer& next, const Tensor& next_weight,
                  const Tensor& next_bias);
  /// As functions::linear, likewise. Before the bias, channels are multiplied by `gain` [out], where it is
  /// defined, which is the same in every pass, and for tapes that do not record.
  Tensor linear(Tape& tape, const Tensor& x, const Tensor& weight, const Tensor& bias, Activation activation,
                const Tensor& gain = {});
  /// As functions::convolution, likewise, and for a weight whose channels are last as functions::depthwise.
  /// An image's pixels, or all, have one scale.
  Tensor convolution(Tape& tape, const Tensor& x, const kernels::Window& window, const Tensor& weight,
                     const Tensor& bias, Activation activation, const Tensor& gain = {});

  const Parameter& weight_parameter() const { return weight_; }
  const QuantizationOptions& options() const { return shared_.options; }
  /// Whether products are of rounded numbers; with an observer, only once it has seen any.
  bool rounds() { return shared_.rounds && (!observer_ || observer_->has_seen()); }
  /// Scale and zero point of the inputs of each of this rank's groups; empty where each row has its own.
  std::vector<std::pair<float, float>> input_scales();
  /// The weight in integers, i8 of its shape, and the scales [out] or [groups.count, out] of its channels.
  void weight_integers(const Tensor& integers, const Tensor& scale) const;
  /// The way back: the weight becomes that of integers, and its scales those that it was rounded by.
  void take_integers(const Tensor& integers, const Tensor& scale) const;
  /// The shape of the scales of a weight of this shape: its own, or of all ranks.
  Shape scale_shape(const Shape& of_weight) const;

 private:
  struct Scales {
    Tensor scale, zero_point;  // [rows] or [1], where the tape is, and learned where they are
  };
  Scales observed_scales(Tape& tape, Index rows, DType dtype, kernels::RowOffsets offsets);
  Tensor weight_scales(Tape& tape, const Tensor& rows) const;
  // A weight's output channels as rows, and back.
  Tensor channel_rows(Tape& tape, const Tensor& weight) const;
  Tensor from_channel_rows(Tape& tape, const Tensor& rows) const;
  bool multiplies_integers(const Tape& tape);
  Scales scales_for(Tape& tape, const Tensor& x, kernels::RowOffsets offsets);
  kernels::IntegerRows integer_input(Tape& tape, const Tensor& x, const Scales& scales);
  static kernels::IntegerRows integer_rows(Tape& tape, Index rows, Index in, const Scales& scales);
  void pack(Tape& tape, const Tensor& weight, const Tensor& gain);
  // Where a channel's number is among the weight's.
  Index place(Index channel, Index channels, Index i, Index in) const {
    return channels_last_ ? i * channels + channel : channel * in + i;
  }
  Tensor product(Tape& tape, const Tensor& x, kernels::RowOffsets offsets, const Tensor& weight,
                 const Tensor& bias, Activation activation, const Tensor& gain);

  Quantization& shared_;
  const Parameter& weight_;
  QuantizedGroups groups_;
  bool channels_last_;
  std::optional<RangeObserver> observer_;  // unless inputs have a scale for each row
  // Learned: what the scale of the range is multiplied by, so that a step of the optimizer changes large and
  // small scales alike.
  Parameter* weight_factor_ = nullptr;  // [groups, out] or [out]
  Parameter* input_factor_ = nullptr;   // [groups]
  std::optional<kernels::IntegerWeights> packed_;
  Tensor depthwise_, depthwise_scale_;  // in place of packed_: integers in f32, and their channels' scales
};

/// A layer that can be quantized.
class Quantizable {
 public:
  enum class Kind : std::uint8_t { linear, experts, convolution, depthwise };
  virtual ~Quantizable() = default;
  virtual Kind quantizable_kind() const = 0;
  /// Before the layer's parameters have their place.
  virtual void quantize(Quantization& shared) = 0;
};

}  // namespace conclave
