#include "autograd/nn/quantizer.h"

#include <algorithm>

namespace conclave {

Quantizer::Quantizer(Quantization& shared, Index out, const QuantizedGroups& groups)
    : shared_(shared), groups_(groups) {
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

Tensor Quantizer::weight(Tape& tape, const Tensor& weight) {
  if (!shared_.rounds) return weight;
  const QuantLevels levels = shared_.options.weight_levels();
  const Index channels = weight.rank() == 3 ? weight.size(0) * weight.size(1) : weight.size(0);
  const Tensor rows = functions::reshape(weight, {channels, channels > 0 ? weight.numel() / channels : 0});
  Tensor rounded;
  if (weight_factor_) {
    const auto of_channels = [&] { return tape.empty({channels}, weight.dtype()); };
    const Tensor lowest = of_channels(), highest = of_channels(), base = of_channels(), zero = of_channels();
    kernels::row_ranges(rows, lowest, highest);
    kernels::range_scales(lowest, highest, levels, base, zero);
    const Tensor factor = functions::reshape(weight_factor_->value, {channels});
    rounded = functions::fake_quantize(tape, rows, functions::multiply(tape, factor, base), Tensor(), levels);
  } else {
    rounded = functions::fake_quantize_rows(tape, rows, levels);
  }
  return functions::reshape(rounded, weight.shape());
}

Tensor Quantizer::input(Tape& tape, const Tensor& x, kernels::RowOffsets offsets) {
  if (!observer_)
    return shared_.rounds ? functions::fake_quantize_rows(tape, x, shared_.options.activation_levels()) : x;
  if (tape.recording() || shared_.calibrates) observer_->see(tape, x, offsets, groups_.first);
  if (!shared_.rounds || !(tape.planning() || observer_->has_seen())) return x;
  return observed_input(tape, x, offsets);
}

Tensor Quantizer::observed_input(Tape& tape, const Tensor& x, kernels::RowOffsets offsets) {
  const QuantLevels levels = shared_.options.activation_levels();
  const auto [scale, zero_point] = observer_->scales(tape, levels, groups_.first, groups_.count);
  if (groups_.total == 1) {
    const Tensor base = tape.on_device(scale);
    return functions::fake_quantize(
        tape, x, input_factor_ ? functions::multiply(tape, input_factor_->value, base) : base,
        tape.on_device(zero_point), levels);
  }
  // Each row's, by its expert.
  const Index rows = x.size(0);
  Arena& arena = tape.arena();
  const Tensor bases = arena.empty_on_host({rows}, x.dtype()), zeros = arena.empty_on_host({rows}, x.dtype()),
               experts = arena.empty_on_host({rows}, DType::i32);
  for_floating(x.dtype(), "quantizer", [&, &scale = scale, &zero_point = zero_point]<class T>(T) {
    for (std::size_t g = 0; g + 1 < offsets.size(); ++g)
      for (Index row = offsets[g]; row < offsets[g + 1]; ++row) {
        bases.data<T>()[row] = scale.template data<T>()[g];
        zeros.data<T>()[row] = zero_point.template data<T>()[g];
        experts.data<std::int32_t>()[row] = static_cast<std::int32_t>(g);
      }
  });
  Tensor scales = tape.on_device(bases);
  if (input_factor_) {
    const Tensor factors = functions::embedding(tape, tape.on_device(experts),
                                                functions::reshape(input_factor_->value, {groups_.count, 1}));
    scales = functions::multiply(tape, functions::reshape(factors, {rows}), scales);
  }
  return functions::fake_quantize(tape, x, scales, tape.on_device(zeros), levels);
}

Tensor Quantizer::product(Tape& tape, const Tensor& x, kernels::RowOffsets offsets, const Tensor& weight,
                          const Tensor& bias, Activation activation) {
  return functions::grouped_linear(tape, input(tape, x, offsets), offsets, this->weight(tape, weight), bias,
                                   activation);
}

Tensor Quantizer::linear(Tape& tape, const Tensor& x, const Tensor& weight, const Tensor& bias,
                         Activation activation) {
  const Index offsets[] = {0, x.size(0)};
  return product(tape, x, offsets, functions::reshape(weight, {1, weight.size(0), weight.size(1)}),
                 bias.defined() ? functions::reshape(bias, {1, bias.size(0)}) : bias, activation);
}

}  // namespace conclave
