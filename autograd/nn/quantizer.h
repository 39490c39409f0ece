// Rounds a product's input and weight in the same way as inference with integers. A layer of a model to be
// quantized has one beside its own parameters. Weights have a scale for each output channel and symmetric
// levels. Inputs have a scale for each row, or, from an observer, one for all rows or one for each expert's
// rows; their levels begin at zero.
#pragma once

#include <map>
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
  /// 7: the sum of two products with 8-bit weights fits 16 bits, in which processors without VNNI add them.
  int activation_bits = 7;
  bool per_token = true;  ///< each input row has its own scale; false: scales come from an observer
  bool learned = false;   ///< learn the scales of weights, and of inputs if not per token (LSQ)
  ObserverOptions observer = {};

  QuantLevels weight_levels() const { return QuantLevels::symmetric(weight_bits); }
  QuantLevels activation_levels() const { return QuantLevels::affine(activation_bits); }
};

/// Shared by all quantizers of a model. Must outlive them.
struct Quantization {
  QuantizationOptions options = {};
  bool rounds = false;      ///< false: products are not quantized
  bool calibrates = false;  ///< observers also learn from passes that are not recorded
  /// Passes that are not recorded multiply integers (depthwise convolutions only in host memory). Weights are
  /// packed at their first use and must not change afterwards.
  bool integers = false;
  /// Inference will use integers later: layers that cannot are refused before training starts.
  bool for_integers = false;
  std::vector<Quantizer*> quantizers = {};
  std::vector<RangeObserver*> observers = {};  ///< observers of these quantizers
};

/// The groups (experts) of a quantizer's layer, and this rank's part of them.
struct QuantizedGroups {
  Index total = 1, first = 0, count = 1;
  bool sharded = false;  ///< divided over ranks, as experts are
};

class Quantizer : public Module {
 public:
  /// For a weight [groups.count, out, in], or [out, ...] without experts, or [..., out] if `channels_last`.
  /// The weight must outlive the quantizer. Throws Error if inference is to use integers and the product has
  /// more inputs than integers can add up.
  Quantizer(Quantization& shared, const Parameter& weight, const QuantizedGroups& groups = {},
            bool channels_last = false);

  /// Rounds x [rows, in]; `offsets` divide the rows among this rank's groups.
  Tensor input(Tape& tape, const Tensor& x, kernels::RowOffsets offsets);
  /// Rounds the weight.
  Tensor weight(Tape& tape, const Tensor& weight);

  /// functions::grouped_linear on rounded inputs and weights.
  Tensor product(Tape& tape, const Tensor& x, kernels::RowOffsets offsets, const Tensor& weight,
                 const Tensor& bias, Activation activation);
  /// next.product() applied to the result of product(); `next` has no activation. If both multiply integers
  /// and `next` has observed input scales, the intermediate result is stored in integers only.
  Tensor products(Tape& tape, const Tensor& x, kernels::RowOffsets offsets, const Tensor& weight,
                  const Tensor& bias, Activation activation, Quantizer& next, const Tensor& next_weight,
                  const Tensor& next_bias);
  /// functions::linear on rounded inputs and weights. If `gain` [out] is defined, it multiplies the channels
  /// before the bias; it must be the same in every pass, and is for tapes that do not record.
  Tensor linear(Tape& tape, const Tensor& x, const Tensor& weight, const Tensor& bias, Activation activation,
                const Tensor& gain = {});
  /// linear() with channels [begin, end) of the weight alone, and their bias; for tapes that do not record.
  Tensor linear_part(Tape& tape, const Tensor& x, const Tensor& weight, const Tensor& bias, Index begin,
                     Index end);
  /// functions::convolution on rounded inputs and weights, or functions::depthwise if channels are last. The
  /// input has one scale per image, or one for all images.
  Tensor convolution(Tape& tape, const Tensor& x, const kernels::Window& window, const Tensor& weight,
                     const Tensor& bias, Activation activation, const Tensor& gain = {});

  const Parameter& weight_parameter() const { return weight_; }
  const QuantizationOptions& options() const { return shared_.options; }
  /// False if an observer has seen no inputs yet: products are not rounded before.
  bool has_ranges() const { return !observer_ || observer_->has_seen(); }
  /// Whether products are rounded.
  bool rounds() const { return shared_.rounds && has_ranges(); }
  /// Scale and zero point of the inputs of each of this rank's groups; empty where each row has its own.
  std::vector<std::pair<float, float>> input_scales();
  /// Computes the weight in integers, i8 of its shape, and the scales of its channels, [out] or
  /// [groups.count, out].
  void weight_integers(const Tensor& integers, const Tensor& scale) const;
  /// The reverse: sets the weight to integers times scale, and learned factors so that the same scales
  /// result, unless the integers are of more bits than options().weight_bits.
  void take_integers(const Tensor& integers, const Tensor& scale) const;
  /// The shape of the scales of a weight of the given shape: this rank's, or that over all ranks.
  Shape scale_shape(const Shape& of_weight) const;

 private:
  struct Scales {
    Tensor scale, zero_point;  // [rows] or [1], on the tape's device; learned if scales are
  };
  Scales observed_scales(Tape& tape, Index rows, DType dtype, kernels::RowOffsets offsets);
  Tensor weight_scales(Tape& tape, const Tensor& rows) const;
  // The weight with one row per output channel, and the reverse.
  Tensor channel_rows(Tape& tape, const Tensor& weight) const;
  Tensor from_channel_rows(Tape& tape, const Tensor& rows) const;
  bool multiplies_integers(const Tape& tape);
  Scales scales_for(Tape& tape, const Tensor& x, kernels::RowOffsets offsets);
  kernels::IntegerRows integer_input(Tape& tape, const Tensor& x, const Scales& scales);
  static kernels::IntegerRows integer_rows(Tape& tape, Index rows, Index in, const Scales& scales);
  void pack(Tape& tape, const Tensor& weight, const Tensor& gain);
  const kernels::IntegerWeights& packed_part(Tape& tape, const Tensor& weight, Index begin, Index end);
  // The index in the weight of element i of a channel.
  Index place(Index channel, Index channels, Index i, Index in) const {
    return channels_last_ ? i * channels + channel : channel * in + i;
  }
  Tensor product(Tape& tape, const Tensor& x, kernels::RowOffsets offsets, const Tensor& weight,
                 const Tensor& bias, Activation activation, const Tensor& gain);

  Quantization& shared_;
  const Parameter& weight_;
  QuantizedGroups groups_;
  bool channels_last_;
  std::optional<RangeObserver> observer_;  // empty if each input row has its own scale
  // Learned factors on the scale that a range gives. A factor lets a step of the optimizer change large and
  // small scales alike.
  Parameter* weight_factor_ = nullptr;  // [groups, out] or [out]
  Parameter* input_factor_ = nullptr;   // [groups]
  std::optional<kernels::IntegerWeights> packed_;
  std::map<std::pair<Index, Index>, kernels::IntegerWeights> parts_;  // by first channel and end
  Tensor depthwise_, depthwise_scale_;  // depthwise only: integers in f32, and their channels' scales
};

/// A layer that can be quantized.
class Quantizable {
 public:
  enum class Kind : std::uint8_t { linear, experts, convolution, depthwise };
  virtual ~Quantizable() = default;
  virtual Kind quantizable_kind() const = 0;
  /// Call it before the layer's parameters are allocated.
  virtual void quantize(Quantization& shared) = 0;
};

}  // namespace conclave
