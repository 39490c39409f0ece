#include "autograd/nn/quantizer.h"

#include <algorithm>
#include <cstdlib>

#include "core/kernels/activation.h"

namespace conclave {
namespace {

// A weight's output channels as rows.
Tensor channel_rows(const Tensor& weight) {
  const Index channels = weight.rank() == 3 ? weight.size(0) * weight.size(1) : weight.size(0);
  return functions::reshape(weight, {channels, channels > 0 ? weight.numel() / channels : 0});
}

}  // namespace

Quantizer::Quantizer(Quantization& shared, const Parameter& weight, const QuantizedGroups& groups)
    : shared_(shared), weight_(weight), groups_(groups) {
  shared.quantizers.push_back(this);
  const Index out = weight.shape[groups.sharded ? 1 : 0];
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

// Of rows [channels, in]; the weight's range gives what is learned a factor to.
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
  const Tensor rows = channel_rows(weight);
  const Tensor rounded =
      weight_factor_ ? functions::fake_quantize(tape, rows, weight_scales(tape, rows), Tensor(), levels)
                     : functions::fake_quantize_rows(tape, rows, levels);
  return functions::reshape(rounded, weight.shape());
}

Tensor Quantizer::input(Tape& tape, const Tensor& x, kernels::RowOffsets offsets) {
  const QuantLevels levels = shared_.options.activation_levels();
  if (!observer_) return shared_.rounds ? functions::fake_quantize_rows(tape, x, levels) : x;
  if (tape.recording() || shared_.calibrates) observer_->see(tape, x, offsets, groups_.first);
  if (!shared_.rounds || !(tape.planning() || observer_->has_seen())) return x;
  const auto [scale, zero_point, experts] = observed_scales(tape, x.size(0), x.dtype(), offsets);
  if (!input_factor_) return functions::fake_quantize(tape, x, scale, zero_point, levels);
  Tensor factor = input_factor_->value;
  if (experts.defined())
    factor = functions::reshape(
        functions::embedding(tape, experts, functions::reshape(factor, {groups_.count, 1})), {x.size(0)});
  return functions::fake_quantize(tape, x, functions::multiply(tape, factor, scale), zero_point, levels);
}

Quantizer::Scales Quantizer::observed_scales(Tape& tape, Index rows, DType dtype,
                                             kernels::RowOffsets offsets) {
  const auto of_groups =
      observer_->scales(tape, shared_.options.activation_levels(), groups_.first, groups_.count);
  if (groups_.total == 1) return {tape.on_device(of_groups.scale), tape.on_device(of_groups.zero_point), {}};
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
  return {tape.on_device(scale), tape.on_device(zero_point), tape.on_device(experts)};
}

Tensor Quantizer::product(Tape& tape, const Tensor& x, kernels::RowOffsets offsets, const Tensor& weight,
                          const Tensor& bias, Activation activation) {
  return product(tape, x, offsets, weight, bias, activation, Tensor());
}

Tensor Quantizer::product(Tape& tape, const Tensor& x, kernels::RowOffsets offsets, const Tensor& weight,
                          const Tensor& bias, Activation activation, const Tensor& gain) {
  if (shared_.integers && shared_.rounds && !tape.recording() && tape.device() == Device::cpu &&
      (!observer_ || observer_->has_seen()))
    return integer_product(tape, x, offsets, weight, bias, activation, gain);
  Tensor rounded = this->weight(tape, weight);
  if (gain.defined()) rounded = functions::scale_rows(tape, rounded, gain);
  return functions::grouped_linear(tape, input(tape, x, offsets), offsets, rounded, bias, activation);
}

// What product() makes of rounded numbers, to rounding.
Tensor Quantizer::integer_product(Tape& tape, const Tensor& x, kernels::RowOffsets offsets,
                                  const Tensor& weight, const Tensor& bias, Activation activation,
                                  const Tensor& gain) {
  const QuantLevels levels = shared_.options.activation_levels();
  const Index rows = x.size(0);
  const Tensor y = tape.empty({rows, weight.size(1)}, x.dtype());
  const ArenaScope scope(tape.arena());
  if (!packed_) {
    packed_ = kernels::IntegerWeights::empty(weight.size(0), weight.size(1), weight.size(2));
    kernels::pack_weights(weight, weight_scales(tape, channel_rows(weight)), shared_.options.weight_levels(),
                          *packed_);
    if (gain.defined()) {
      const Tensor channels = Tensor::borrow(packed_->scale.data<float>(), gain.shape(), DType::f32);
      kernels::multiply(channels, gain, channels);
    }
  }
  kernels::IntegerRows integers{tape.empty({rows, packed_->row_bytes()}, DType::u8), {}, {}};
  if (observer_) {
    const Scales scales = observed_scales(tape, rows, x.dtype(), offsets);
    integers.scale = scales.scale;
    integers.zero_point = scales.zero_point;
    if (input_factor_) {
      const float* factors = input_factor_->value.data<float>();
      const std::int32_t* experts = scales.experts.defined() ? scales.experts.data<std::int32_t>() : nullptr;
      for (Index i = 0; i < integers.scale.numel(); ++i)
        integers.scale.data<float>()[i] *= factors[experts ? experts[i] : 0];
    }
    kernels::quantize_by(x, levels, integers);
  } else {
    integers.scale = tape.empty({rows}, x.dtype());
    integers.zero_point = tape.empty({rows}, x.dtype());
    kernels::quantize_rows(x, levels, integers);
  }
  kernels::integer_product(integers, levels.highest, offsets, *packed_, bias, activation, y);
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
  const Tensor weight = tape.on_host(weight_.value), rows = channel_rows(weight);
  const Tensor found = weight_scales(tape, channel_rows(weight_.value));
  scale.copy_from(found.reshape(scale.shape()));
  kernels::round_weights(weight, scale.reshape({rows.size(0)}), shared_.options.weight_levels(), integers);
}

void Quantizer::keep_scales(const Tensor& integers) const {
  if (!weight_factor_) return;  // then some integer of each channel is the highest
  const Tensor factors = Tensor::empty(weight_factor_->shape);
  const Index channels = factors.numel(), in = channels > 0 ? integers.numel() / channels : 0;
  for (Index channel = 0; channel < channels; ++channel) {
    int most = 0;
    for (Index i = channel * in; i < (channel + 1) * in; ++i)
      most = std::max(most, std::abs(int{integers.data<std::int8_t>()[i]}));
    factors.data<float>()[channel] =
        most > 0 ? static_cast<float>(shared_.options.weight_levels().highest) / static_cast<float>(most) : 1;
  }
  weight_factor_->value.copy_from(factors);
}

}  // namespace conclave
