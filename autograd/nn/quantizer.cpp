#include "autograd/nn/quantizer.h"

#include <algorithm>
#include <cstdlib>

#include "core/kernels/activation.h"
#include "core/kernels/integer_convolution.h"
#include "core/kernels/reduction.h"

namespace conclave {
namespace {

// Element i of [rows, columns] is element ids[i] of its transpose.
Tensor transposing_ids(Tape& tape, Index rows, Index columns) {
  const Tensor ids = tape.arena().empty_on_host({rows * columns}, DType::i32);
  for (Index i = 0; i < rows * columns; ++i)
    ids.data<std::int32_t>()[i] = static_cast<std::int32_t>(i % columns * rows + i / columns);
  return ids;
}

Tensor transpose(Tape& tape, const Tensor& x) {
  const Index rows = x.size(0), columns = x.size(1);
  const Tensor numbers = functions::embedding(tape, tape.on_device(transposing_ids(tape, columns, rows)),
                                              functions::reshape(x, {rows * columns, 1}));
  return functions::reshape(numbers, {columns, rows});
}

void expect_finite(const Tensor& weight, const std::string& name) {
  require(kernels::all_finite(weight), "{}: a weight is infinite or no number, which no integer is", name);
}

}  // namespace

Quantizer::Quantizer(Quantization& shared, const Parameter& weight, const QuantizedGroups& groups,
                     bool channels_last)
    : shared_(shared), weight_(weight), groups_(groups), channels_last_(channels_last) {
  const Index out = weight.shape[channels_last ? weight.shape.rank() - 1 : groups.sharded ? 1 : 0];
  const Index in = out > 0 && groups.count > 0 ? weight.shape.numel() / (out * groups.count) : 0;
  require(!shared.for_integers || in <= kernels::IntegerWeights::kMostInputs,
          "quantization: a product of {} inputs is more than integers can add up, at most {}; set "
          "quantization.inference to \"rounded\", or make that layer smaller",
          in, kernels::IntegerWeights::kMostInputs);
  shared.quantizers.push_back(this);
  const auto& [weight_bits, activation_bits, per_token, learned, observer] = shared.options;
  const auto factor = [&](const char* name, Shape shape) {
    Parameter& parameter = add_parameter(name, shape, Initializer::constant(1), false);
    parameter.sharded = groups.sharded;
    if (groups.sharded) {
      parameter.first_row = groups.first;
      parameter.global_rows = groups.total;
    }
    return &parameter;
  };
  if (learned)
    weight_factor_ = factor("weight_factor", groups.sharded ? Shape{groups.count, out} : Shape{out});
  if (learned && !per_token) input_factor_ = factor("input_factor", {groups.count});
  if (per_token) return;
  add_module("input", observer_.emplace(observer, groups.total));
  shared.observers.push_back(&*observer_);
}

Tensor Quantizer::channel_rows(Tape& tape, const Tensor& weight) const {
  if (channels_last_) {
    const Index channels = weight.size(weight.rank() - 1);
    return transpose(tape, functions::reshape(weight, {weight.numel() / channels, channels}));
  }
  const Index channels = weight.rank() == 3 ? weight.size(0) * weight.size(1) : weight.size(0);
  return functions::reshape(weight, {channels, channels > 0 ? weight.numel() / channels : 0});
}

Tensor Quantizer::from_channel_rows(Tape& tape, const Tensor& rows) const {
  return functions::reshape(channels_last_ ? transpose(tape, rows) : rows, weight_.shape);
}

// Scales of rows [channels, in]: given by the range of each row, times the learned factor if there is one.
Tensor Quantizer::weight_scales(Tape& tape, const Tensor& rows) const {
  const auto of_channels = [&] { return tape.empty({rows.size(0)}, rows.dtype()); };
  const Tensor lowest = of_channels(), highest = of_channels(), base = of_channels(), zero = of_channels();
  kernels::row_ranges(rows, lowest, highest);
  kernels::range_scales(lowest, highest, shared_.options.weight_levels(), base, zero);
  if (!weight_factor_) return base;
  return functions::multiply(tape, functions::reshape(weight_factor_->value, {rows.size(0)}), base);
}

Tensor Quantizer::weight(Tape& tape, const Tensor& weight) {
  if (!shared_.rounds) return weight;
  const QuantLevels levels = shared_.options.weight_levels();
  const Tensor rows = channel_rows(tape, weight);
  const Tensor rounded =
      weight_factor_ ? functions::fake_quantize(tape, rows, weight_scales(tape, rows), Tensor(), levels)
                     : functions::fake_quantize_rows(tape, rows, levels);
  return channels_last_ ? from_channel_rows(tape, rounded) : functions::reshape(rounded, weight.shape());
}

Tensor Quantizer::input(Tape& tape, const Tensor& x, kernels::RowOffsets offsets) {
  const QuantLevels levels = shared_.options.activation_levels();
  if (!observer_) return shared_.rounds ? functions::fake_quantize_rows(tape, x, levels) : x;
  if (tape.recording() || shared_.calibrates) observer_->see(tape, x, offsets, groups_.first);
  if (!shared_.rounds || !(tape.planning() || observer_->has_seen())) return x;
  const auto [scale, zero_point] = observed_scales(tape, x.size(0), x.dtype(), offsets);
  return functions::fake_quantize(tape, x, scale, zero_point, levels);
}

Quantizer::Scales Quantizer::observed_scales(Tape& tape, Index rows, DType dtype,
                                             kernels::RowOffsets offsets) {
  const auto of_groups =
      observer_->scales(tape, shared_.options.activation_levels(), groups_.first, groups_.count);
  const auto learned = [&](const Tensor& factor, const Tensor& of_range) {
    return factor.defined() ? functions::multiply(tape, factor, of_range) : of_range;
  };
  const Tensor factors = input_factor_ ? input_factor_->value : Tensor();
  if (groups_.total == 1)
    return {learned(factors, tape.on_device(of_groups.scale)), tape.on_device(of_groups.zero_point)};
  Arena& arena = tape.arena();
  const Tensor scale = arena.empty_on_host({rows}, dtype), zero_point = arena.empty_on_host({rows}, dtype),
               experts = arena.empty_on_host({rows}, DType::i32);
  for_floating(dtype, "quantizer", [&]<class T>(T) {
    for (std::size_t g = 0; g + 1 < offsets.size(); ++g)
      for (Index row = offsets[g]; row < offsets[g + 1]; ++row) {
        scale.data<T>()[row] = of_groups.scale.data<T>()[g];
        zero_point.data<T>()[row] = of_groups.zero_point.data<T>()[g];
        experts.data<std::int32_t>()[row] = static_cast<std::int32_t>(g);
      }
  });
  Tensor of_rows;
  if (factors.defined())
    of_rows = functions::reshape(
        functions::embedding(tape, tape.on_device(experts), functions::reshape(factors, {groups_.count, 1})),
        {rows});
  return {learned(of_rows, tape.on_device(scale)), tape.on_device(zero_point)};
}

Tensor Quantizer::product(Tape& tape, const Tensor& x, kernels::RowOffsets offsets, const Tensor& weight,
                          const Tensor& bias, Activation activation) {
  return product(tape, x, offsets, weight, bias, activation, Tensor());
}

bool Quantizer::multiplies_integers(const Tape& tape) {
  return shared_.integers && shared_.rounds && !tape.recording() &&
         (tape.device() == Device::cpu || !channels_last_) && has_ranges();
}

Tensor Quantizer::product(Tape& tape, const Tensor& x, kernels::RowOffsets offsets, const Tensor& weight,
                          const Tensor& bias, Activation activation, const Tensor& gain) {
  if (multiplies_integers(tape)) {
    const Tensor y = tape.empty({x.size(0), weight.size(1)}, x.dtype());
    const Scales scales = scales_for(tape, x, offsets);
    const ArenaScope scope(tape.arena());
    pack(tape, weight, gain);
    kernels::integer_product(integer_input(tape, x, scales), shared_.options.activation_levels().highest,
                             offsets, *packed_, bias, activation, y);
    return y;
  }
  Tensor rounded = this->weight(tape, weight);
  if (gain.defined()) rounded = functions::scale_rows(tape, rounded, gain);
  return functions::grouped_linear(tape, input(tape, x, offsets), offsets, rounded, bias, activation);
}

Tensor Quantizer::linear_part(Tape& tape, const Tensor& x, const Tensor& weight, const Tensor& bias,
                              Index begin, Index end) {
  const Index all[] = {0, x.size(0)}, channels = end - begin;
  if (!multiplies_integers(tape)) {
    const Tensor rounded = this->weight(tape, weight);
    return functions::linear(tape, input(tape, x, all), rounded.rows(begin, end), bias);
  }
  const Tensor y = tape.empty({x.size(0), channels}, x.dtype());
  const Scales scales = scales_for(tape, x, all);
  const ArenaScope scope(tape.arena());
  const kernels::IntegerWeights& part = packed_part(tape, weight, begin, end);
  kernels::integer_product(integer_input(tape, x, scales), shared_.options.activation_levels().highest, all,
                           part, bias.defined() ? bias.reshape({1, channels}) : bias, Activation::none, y);
  return y;
}

Tensor Quantizer::convolution(Tape& tape, const Tensor& x, const kernels::Window& window,
                              const Tensor& weight, const Tensor& bias, Activation activation,
                              const Tensor& gain) {
  const Index images = x.size(0), channels = weight.size(channels_last_ ? 2 : 0), all[] = {0, images};
  const Tensor pixels = functions::reshape(x, {images, images > 0 ? x.numel() / images : 0});
  if (!multiplies_integers(tape)) {
    const Tensor rounded = functions::reshape(input(tape, pixels, all), x.shape());
    Tensor factors = this->weight(tape, weight);
    if (channels_last_) {
      if (gain.defined()) factors = functions::scale_last(tape, factors, gain);
      return functions::depthwise(tape, rounded, factors, window, bias, activation);
    }
    if (gain.defined()) factors = functions::scale_rows(tape, factors, gain);
    return functions::convolution(tape, rounded, factors, bias, window, activation);
  }
  const Tensor y = tape.empty(kernels::window_shape("convolution", x, window, channels), x.dtype());
  if (images == 0) return y;
  const Scales scales = scales_for(tape, pixels, all);
  const ArenaScope scope(tape.arena());
  pack(tape, weight, gain);
  const kernels::IntegerRows integers = integer_input(tape, pixels, scales);
  if (channels_last_) {
    kernels::integer_depthwise(integers, x.shape(), depthwise_, depthwise_scale_, window, bias, activation,
                               y);
    return y;
  }
  const Index rows = y.numel() / std::max<Index>(channels, 1), of_rows[] = {0, rows};
  const Shape of_windows{integers.scale.numel() == 1 ? 1 : rows};
  const std::int32_t highest = shared_.options.activation_levels().highest;
  const kernels::IntegerRows unfolded = integer_rows(
      tape, rows, packed_->in, {tape.empty(of_windows, DType::f32), tape.empty(of_windows, DType::f32)});
  kernels::unfold_integers(integers, highest, x.shape(), window, unfolded);
  kernels::integer_product(unfolded, highest, of_rows, *packed_,
                           bias.defined() ? bias.reshape({1, channels}) : bias, activation,
                           y.reshape({rows, channels}));
  return y;
}

// Packs at the first call only; afterwards the weight and the gain must not change.
void Quantizer::pack(Tape& tape, const Tensor& weight, const Tensor& gain) {
  if (packed_ || depthwise_.defined()) return;
  const QuantLevels levels = shared_.options.weight_levels();
  const Tensor rows = channel_rows(tape, weight), scale = weight_scales(tape, rows);
  expect_finite(rows, weight_.name);
  Tensor channels = scale;
  if (channels_last_) {
    const Tensor integers = tape.empty(rows.shape(), DType::i8);
    kernels::round_weights(rows, scale, levels, integers);
    depthwise_ = from_channel_rows(tape, integers.to(DType::f32)).clone();
    depthwise_scale_ = channels = scale.clone();
  } else {
    const bool grouped = weight.rank() == 3;
    packed_ = kernels::IntegerWeights::empty(grouped ? weight.size(0) : 1, weight.size(grouped ? 1 : 0),
                                             rows.size(1), tape.device());
    kernels::pack_weights(weight.reshape({packed_->groups, packed_->out, packed_->in}), scale, levels,
                          *packed_);
    channels =
        gain.defined() ? packed_->scale.reshape({packed_->scale.numel()}).rows(0, gain.numel()) : scale;
  }
  if (gain.defined()) kernels::multiply(channels, gain, channels);
}

// Like pack(). A part may begin within a panel of the whole weight, so it has panels of its own.
const kernels::IntegerWeights& Quantizer::packed_part(Tape& tape, const Tensor& weight, Index begin,
                                                      Index end) {
  const auto found = parts_.find({begin, end});
  if (found != parts_.end()) return found->second;
  const Tensor all = channel_rows(tape, weight), rows = all.rows(begin, end),
               scale = weight_scales(tape, all).rows(begin, end);
  expect_finite(rows, weight_.name);
  kernels::IntegerWeights& part = parts_[{begin, end}];
  part = kernels::IntegerWeights::empty(1, end - begin, rows.size(1), tape.device());
  kernels::pack_weights(rows.reshape({1, part.out, part.in}), scale, shared_.options.weight_levels(), part);
  return part;
}

// Observed scales, or memory for the scales of each row. Call it before an ArenaScope: a device copies from
// host memory of the arena later, and the scope would release that memory.
Quantizer::Scales Quantizer::scales_for(Tape& tape, const Tensor& x, kernels::RowOffsets offsets) {
  const Index rows = x.size(0);
  if (observer_) return observed_scales(tape, rows, x.dtype(), offsets);
  return {tape.empty({rows}, x.dtype()), tape.empty({rows}, x.dtype())};
}

// Rounds rows to integers.
kernels::IntegerRows Quantizer::integer_input(Tape& tape, const Tensor& x, const Scales& scales) {
  const kernels::IntegerRows integers = integer_rows(tape, x.size(0), x.size(1), scales);
  const QuantLevels levels = shared_.options.activation_levels();
  (observer_ ? kernels::quantize_by : kernels::quantize_rows)(x, levels, integers);
  return integers;
}

kernels::IntegerRows Quantizer::integer_rows(Tape& tape, Index rows, Index in, const Scales& scales) {
  return {
      tape.empty({rows, kernels::IntegerWeights::row_bytes(in)}, kernels::IntegerRows::dtype(tape.device())),
      scales.scale, scales.zero_point};
}

Tensor Quantizer::products(Tape& tape, const Tensor& x, kernels::RowOffsets offsets, const Tensor& weight,
                           const Tensor& bias, Activation activation, Quantizer& next,
                           const Tensor& next_weight, const Tensor& next_bias) {
  if (!multiplies_integers(tape) || !next.multiplies_integers(tape) || !next.observer_)
    return next.product(tape, product(tape, x, offsets, weight, bias, activation), offsets, next_weight,
                        next_bias, Activation::none);
  const Index rows = x.size(0);
  const QuantLevels levels = shared_.options.activation_levels(),
                    next_levels = next.shared_.options.activation_levels();
  const Tensor y = tape.empty({rows, next_weight.size(1)}, x.dtype());
  const Scales scales = scales_for(tape, x, offsets),
               next_scales = next.observed_scales(tape, rows, x.dtype(), offsets);
  const ArenaScope scope(tape.arena());
  pack(tape, weight, Tensor());
  next.pack(tape, next_weight, Tensor());
  const kernels::IntegerRows between = integer_rows(tape, rows, weight.size(1), next_scales);
  kernels::integer_product(integer_input(tape, x, scales), levels.highest, offsets, *packed_, bias,
                           activation, between, next_levels);
  kernels::integer_product(between, next_levels.highest, offsets, *next.packed_, next_bias, Activation::none,
                           y);
  return y;
}

Tensor Quantizer::linear(Tape& tape, const Tensor& x, const Tensor& weight, const Tensor& bias,
                         Activation activation, const Tensor& gain) {
  const Index offsets[] = {0, x.size(0)};
  return product(tape, x, offsets, functions::reshape(weight, {1, weight.size(0), weight.size(1)}),
                 bias.defined() ? functions::reshape(bias, {1, bias.size(0)}) : bias, activation, gain);
}

void Quantizer::weight_integers(const Tensor& integers, const Tensor& scale) const {
  Arena arena("weights in integers");
  Tape tape(arena, false);
  const Tensor rows = channel_rows(tape, weight_.value);
  expect_finite(rows, weight_.name);
  const Tensor found = weight_scales(tape, rows), by_rows = Tensor::empty(rows.shape(), DType::i8);
  const Index channels = rows.size(0), in = rows.size(1);
  scale.copy_from(found.reshape(scale.shape()));
  kernels::round_weights(tape.on_host(rows), scale.reshape({channels}), shared_.options.weight_levels(),
                         by_rows);
  for (Index channel = 0; channel < channels; ++channel)
    for (Index i = 0; i < in; ++i)
      integers.data<std::int8_t>()[place(channel, channels, i, in)] =
          by_rows.data<std::int8_t>()[channel * in + i];
}

std::vector<std::pair<float, float>> Quantizer::input_scales() {
  if (!observer_) return {};
  Arena arena("scales of inputs");
  Tape tape(arena, false);
  const auto [scale, zero_point] =
      observer_->scales(tape, shared_.options.activation_levels(), groups_.first, groups_.count);
  const Tensor factor = input_factor_ ? tape.on_host(input_factor_->value) : Tensor();
  std::vector<std::pair<float, float>> found;
  for (Index g = 0; g < groups_.count; ++g)
    found.emplace_back(scale.data<float>()[g] * (factor.defined() ? factor.data<float>()[g] : 1),
                       zero_point.data<float>()[g]);
  return found;
}

void Quantizer::take_integers(const Tensor& integers, const Tensor& scale) const {
  const Tensor weight = Tensor::empty(integers.shape());
  const Tensor factors = weight_factor_ ? Tensor::empty(weight_factor_->shape) : Tensor();
  const Index channels = scale.numel(), in = channels > 0 ? integers.numel() / channels : 0;
  for (Index channel = 0; channel < channels; ++channel) {
    int most = 0;
    for (Index i = 0; i < in; ++i) {
      const Index at = place(channel, channels, i, in);
      const int integer = integers.data<std::int8_t>()[at];
      weight.data<float>()[at] = static_cast<float>(integer) * scale.data<float>()[channel];
      most = std::max(most, std::abs(integer));
    }
    // Without a factor, at least one integer of each channel is the highest level. An integer beyond these
    // levels was one of more bits: then the channel's range gives a new scale.
    if (factors.defined())
      factors.data<float>()[channel] = std::max(
          most > 0 ? static_cast<float>(shared_.options.weight_levels().highest) / static_cast<float>(most)
                   : 1,
          1.0f);
  }
  weight_.value.copy_from(weight);
  if (factors.defined()) weight_factor_->value.copy_from(factors);
}

Shape Quantizer::scale_shape(const Shape& of_weight) const {
  if (groups_.sharded) return {of_weight[0], of_weight[1]};
  return {of_weight[channels_last_ ? of_weight.rank() - 1 : 0]};
}

}  // namespace conclave
