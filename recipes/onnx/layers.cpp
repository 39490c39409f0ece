#include "recipes/onnx/layers.h"

#include <cmath>
#include <limits>

namespace conclave::onnx {
namespace {

const Parameter* parameter_or_null(const Module& module, std::string_view name) {
  for (const auto& [own, found] : module.named_parameters())
    if (own == name) return found;
  return nullptr;
}

// Quantized rows [rows, in] u8, with the scale and zero point of each row.
struct Integers8 {
  Value values;
  Value scale, zero_point;  // [rows, 1] f32
};

// Quantizes each row by its own range; must match kernels::quantize_rows.
Integers8 integers_of_rows(Graph& graph, const Value& x, QuantLevels levels) {
  const Value zero = graph.scalar(0.0F);
  const auto end = [&](const char* reduce, const char* with_zero) {
    return graph(with_zero,
                 {graph(reduce, {x}, {{"axes", Integers{1}}, {"keepdims", std::int64_t{1}}}), zero});
  };
  const Value lowest = end("ReduceMin", "Min"), highest = end("ReduceMax", "Max");
  const Value range = graph("Sub", {highest, lowest});
  // The minimum avoids a division by zero; a row of zeros may have any scale.
  const Value scale = graph("Max", {graph("Div", {range, graph.scalar(static_cast<float>(levels.highest))}),
                                    graph.scalar(std::numeric_limits<float>::min())});
  const Value zero_point = graph("Round", {graph("Div", {graph("Neg", {lowest}), scale})});
  Value values =
      graph("QuantizeLinear",
            {x, graph.reshape(scale, {-1}), graph.cast(graph.reshape(zero_point, {-1}), ElementType::u8)},
            {{"axis", std::int64_t{0}}});
  // If both ends of the range round outwards, the largest integer exceeds the limit by one.
  if (levels.highest < 255)
    values = graph("Clip", {values, "", graph.scalar(static_cast<std::uint8_t>(levels.highest))});
  return {values, scale, zero_point};
}

}  // namespace

Module* child_or_null(const Module& module, std::string_view name) {
  for (const auto& [own, found] : module.children()) {
    if (own == name) return found;
    if (!own.empty()) continue;
    if (Module* below = child_or_null(*found, name)) return below;
  }
  return nullptr;
}

Value parameter(Graph& graph, const Module& module, std::string_view name) {
  const Parameter* found = parameter_or_null(module, name);
  return found ? graph.tensor(found->name, found->value) : Value();
}

Quantizer* quantizer_of(const Module& layer) {
  for (const auto& [name, found] : layer.children())
    if (auto* quantizer = dynamic_cast<Quantizer*>(found)) return quantizer;
  return nullptr;
}

Product product_of(const Module& layer, const std::string& prefix, Quantizer* quantizer, bool experts) {
  const Parameter* weight = parameter_or_null(layer, prefix + "weight");
  require(weight != nullptr, "ONNX export: a layer has no {}weight", prefix);
  const Index groups = experts ? weight->shape[0] : 1, out = weight->shape[experts ? 1 : 0];
  const Index in = weight->value.numel() / (groups * out);
  Product product{weight->name, {}};
  if (const Parameter* bias = parameter_or_null(layer, prefix + "bias"))
    product.bias = bias->value.reshape({groups, out});
  if (!quantizer || !quantizer->rounds()) {
    for (Index g = 0; g < groups; ++g)
      product.weights.push_back(weight->value.reshape({groups * out, in}).rows(g * out, (g + 1) * out));
    return product;
  }
  const Tensor integers = Tensor::empty({groups * out, in}, DType::i8);
  product.scale = Tensor::empty({groups, out});
  product.sums = Tensor::zeros({groups, out});
  quantizer->weight_integers(integers.reshape(weight->shape), product.scale.reshape({groups * out}));
  for (Index channel = 0; channel < groups * out; ++channel)
    for (const std::int8_t value : integers.rows(channel, channel + 1).span<std::int8_t>())
      product.sums.data<float>()[channel] += static_cast<float>(value) * product.scale.data<float>()[channel];
  for (Index g = 0; g < groups; ++g)
    product.weights.push_back(integers.rows(g * out, (g + 1) * out).transpose(0, 1).clone());
  product.levels = quantizer->options().activation_levels();
  product.inputs = quantizer->input_scales();
  return product;
}

Value rounded(Graph& graph, const Value& x, QuantLevels levels,
              const std::optional<std::pair<float, float>>& input) {
  if (!input) {
    const Integers8 integers = integers_of_rows(graph, x, levels);
    return graph("DequantizeLinear",
                 {integers.values, graph.reshape(integers.scale, {-1}),
                  graph.cast(graph.reshape(integers.zero_point, {-1}), ElementType::u8)},
                 {{"axis", std::int64_t{0}}});
  }
  const auto [scale, zero_point] = *input;
  Value clipped = x;
  if (levels.highest < 255)
    clipped = graph("Clip", {x, graph.scalar(-zero_point * scale),
                             graph.scalar((static_cast<float>(levels.highest) - zero_point) * scale)});
  const Value step = graph.scalar(scale), zero = graph.scalar(static_cast<std::uint8_t>(zero_point));
  return graph("DequantizeLinear", {graph("QuantizeLinear", {clipped, step, zero}), step, zero});
}

Value multiply(Graph& graph, const Value& x, const Product& product, const Groups& groups) {
  const std::size_t count = product.weights.size();
  const auto name_of = [&](std::string_view what, std::size_t g) {
    return count == 1 ? fmt::format("{}{}", product.name, what)
                      : fmt::format("{}{}.{}", product.name, what, g);
  };
  // Applies `of_group` to each group's rows separately.
  const auto by_groups = [&](const Value& rows, const auto& of_group) {
    if (count == 1) return of_group(rows, std::size_t{0});
    std::vector<Value> parts =
        graph.several(count, "Split", {rows, groups.counts}, {{"axis", std::int64_t{0}}});
    for (std::size_t g = 0; g < count; ++g) parts[g] = of_group(parts[g], g);
    return graph("Concat", parts, {{"axis", std::int64_t{0}}});
  };
  const auto slice = [&](const char* what, const Tensor& values, std::size_t g) {
    return graph.tensor(
        name_of(what, g),
        values.rows(static_cast<Index>(g), static_cast<Index>(g) + 1).reshape({values.size(1)}));
  };
  const bool integers = product.scale.defined();
  if (!integers || !product.inputs.empty())
    return by_groups(x, [&](const Value& rows, std::size_t g) {
      const Value weight = graph.tensor(name_of("", g), product.weights[g]);
      const Value bias = product.bias.defined() ? slice("_bias", product.bias, g) : Value();
      if (!integers)
        return graph("Gemm", bias.empty() ? std::vector{rows, weight} : std::vector{rows, weight, bias},
                     {{"transB", std::int64_t{1}}});
      const Value numbers =
          graph("DequantizeLinear", {weight, slice("_scale", product.scale, g)}, {{"axis", std::int64_t{1}}});
      const Value y = graph("MatMul", {rounded(graph, rows, product.levels, product.inputs[g]), numbers});
      return bias.empty() ? y : graph("Add", {y, bias});
    });
  // Result: scale_row (scale_channel x integer product - zero point x sum of the channel's dequantized
  // weights)
  const auto [values, scale, zero_point] = integers_of_rows(graph, x, product.levels);
  const Value sums = by_groups(values, [&](const Value& rows, std::size_t g) {
    return graph("MatMulInteger", {rows, graph.tensor(name_of("", g), product.weights[g])});
  });
  const auto of_rows = [&](const char* what, const Tensor& channels) {
    const Value all = graph.tensor(product.name + what, channels);
    return count == 1 ? all : graph("Gather", {all, groups.of_rows});
  };
  const Value scaled = graph("Mul", {graph.cast(sums, ElementType::f32), of_rows("_scale", product.scale)});
  const Value zeros = graph("Mul", {zero_point, of_rows("_sums", product.sums)});
  const Value y = graph("Mul", {graph("Sub", {scaled, zeros}), scale});
  return product.bias.defined() ? graph("Add", {y, of_rows("_bias", product.bias)}) : y;
}

Value activation(Graph& graph, const Value& x, Activation activation) {
  switch (activation) {
    case Activation::none:
      return x;
    case Activation::relu:
      return graph("Relu", {x});
    case Activation::gelu: {  // the form that ONNX Runtime fuses into one operation
      const Value erf = graph("Erf", {graph("Div", {x, graph.scalar(std::sqrt(2.0F))})});
      return graph("Mul", {graph("Mul", {x, graph("Add", {erf, graph.scalar(1.0F)})}), graph.scalar(0.5F)});
    }
    case Activation::silu:
      return graph("Mul", {x, graph("Sigmoid", {x})});
    case Activation::hard_swish:
      return graph("HardSwish", {x});
    case Activation::hard_sigmoid:
      return graph("HardSigmoid", {x}, {{"alpha", 1.0F / 6}, {"beta", 0.5F}});
  }
  fail("ONNX export: unknown activation");
}

Value linear(Graph& graph, const Value& x, const Linear& layer, Activation after) {
  return activation(graph, multiply(graph, x, product_of(layer, "", quantizer_of(layer))), after);
}

Value layer_norm(Graph& graph, const Value& x, const LayerNorm& layer) {
  const auto [epsilon, gelu] = layer.options();
  const Value y =
      graph("LayerNormalization", {x, parameter(graph, layer, "weight"), parameter(graph, layer, "bias")},
            {{"axis", std::int64_t{-1}}, {"epsilon", static_cast<float>(epsilon)}});
  return activation(graph, y, gelu ? Activation::gelu : Activation::none);
}

Value feed_forward(Graph& graph, const Value& x, const FeedForward& layer) {
  const Value inner = linear(graph, x, child<Linear>(layer, "up"), layer.activation());
  return linear(graph, inner, child<Linear>(layer, "down"));
}

Value Sequences::apart(Graph& graph, const Value& x, std::int64_t n) const {
  const Value shape = graph("Concat", {batch, length, graph.integers({n})}, {{"axis", std::int64_t{0}}});
  return graph("Reshape", {x, shape});
}

Value Sequences::count(Graph& graph) const { return graph("ReduceSum", {mask, graph.integers({1})}); }

Value Sequences::mean(Graph& graph, const Value& x, std::int64_t n) const {
  const Value rows = apart(graph, x, n);
  if (mask.empty())
    return graph("ReduceMean", {rows}, {{"axes", Integers{1}}, {"keepdims", std::int64_t{0}}});
  const Value there = graph("Unsqueeze", {mask, graph.integers({2})});
  const Value sum =
      graph("ReduceSum", {graph("Mul", {rows, there}), graph.integers({1})}, {{"keepdims", std::int64_t{0}}});
  return graph("Div", {sum, graph("Max", {count(graph), graph.scalar(1.0F)})});
}

Value Sequences::maximum(Graph& graph, const Value& x, std::int64_t n) const {
  Value rows = apart(graph, x, n);
  const std::vector<Attribute> over_rows{{"axes", Integers{1}}, {"keepdims", std::int64_t{0}}};
  if (mask.empty()) return graph("ReduceMax", {rows}, over_rows);
  const Value zero = graph.scalar(0.0F), there = graph("Unsqueeze", {mask, graph.integers({2})});
  rows = graph("Where",
               {graph("Greater", {there, zero}), rows, graph.scalar(std::numeric_limits<float>::lowest())});
  return graph("Where",
               {graph("Greater", {count(graph), zero}), graph("ReduceMax", {rows}, over_rows), zero});
}

Value attend(Graph& graph, const Heads& heads, const Value& queries, const Sequences& of, const Value& keys,
             const Value& values, const Sequences& to) {
  const Index width = heads.hidden / heads.count;
  const auto of_heads = [&](const Value& x, const Sequences& sequences, const Integers& order) {
    const Value shape =
        graph("Concat", {sequences.batch, sequences.length, graph.integers({heads.count, width})},
              {{"axis", std::int64_t{0}}});
    return graph.transpose(graph("Reshape", {x, shape}), order);
  };
  const Value scaled = graph("Mul", {queries, graph.scalar(1 / std::sqrt(static_cast<float>(width)))});
  Value scores = graph("MatMul", {of_heads(scaled, of, {0, 2, 1, 3}), of_heads(keys, to, {0, 2, 3, 1})});
  if (!to.mask.empty()) {
    const Value missing = graph("Mul", {graph("Sub", {to.mask, graph.scalar(1.0F)}), graph.scalar(1e9F)});
    scores = graph("Add", {scores, graph("Unsqueeze", {missing, graph.integers({1, 2})})});
  }
  const Value shares = graph("Softmax", {scores}, {{"axis", std::int64_t{-1}}});
  const Value seen = graph("MatMul", {shares, of_heads(values, to, {0, 2, 1, 3})});
  return graph.reshape(graph.transpose(seen, {0, 2, 1, 3}), {-1, heads.hidden});
}

Value attention(Graph& graph, const Value& x, const Sequences& sequences, const MultiHeadAttention& layer,
                bool mean) {
  const Linear &qkv = child<Linear>(layer, "qkv"), &out = child<Linear>(layer, "out");
  const Index hidden = out.weight().shape[0];
  const auto parts = graph.several(3, "Split", {linear(graph, x, qkv)}, {{"axis", std::int64_t{1}}});
  const Value seen =
      attend(graph, {hidden, layer.heads()}, parts[0], sequences, parts[1], parts[2], sequences);
  return linear(graph, mean ? sequences.mean(graph, seen, hidden) : seen, out);
}

}  // namespace conclave::onnx
