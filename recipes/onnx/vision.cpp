#include "recipes/onnx/vision.h"

namespace conclave::onnx {
namespace {

// Images in the graph and their size.
struct Picture {
  Value values;  // [images, channels, height, width]
  Index channels, height, width;
};

// Converts a weight [out, height, width, in] to the graph's layout [out, in, height, width].
Tensor channels_first(const Tensor& weight) {
  const auto at = weight.shape();
  const Tensor pixels = weight.reshape({at[0], at[1] * at[2], at[3]});
  return pixels.transpose(1, 2).clone().reshape({at[0], at[3], at[1], at[2]});
}

Value convolve(Graph& graph, const Value& x, const kernels::Window& window, Index groups,
               const std::vector<Value>& weights) {
  std::vector<Value> inputs{x};
  inputs.insert(inputs.end(), weights.begin(), weights.end());
  const std::int64_t size = window.size, stride = window.stride, padding = window.padding;
  return graph("Conv", inputs,
               {{"kernel_shape", Integers{size, size}},
                {"strides", Integers{stride, stride}},
                {"pads", Integers{padding, padding, padding, padding}},
                {"group", groups}});
}

// Images and weight for a convolution whose windows cover several pixels, quantized if there is a quantizer.
// `channels_first` converts the weight to the graph's layout.
template <class ChannelsFirst>
std::pair<Value, Value> under_window(Graph& graph, const Picture& x, const Parameter& weight,
                                     Quantizer* quantizer, ChannelsFirst channels_first) {
  if (!quantizer) return {x.values, graph.tensor(weight.name, channels_first(weight.value))};
  const auto inputs = quantizer->input_scales();
  const Value whole = graph.reshape(x.values, {-1, x.channels * x.height * x.width});
  const Value input = rounded(graph, whole, quantizer->options().activation_levels(),
                              inputs.empty() ? std::nullopt : std::optional(inputs.front()));
  const Tensor integers = Tensor::empty(weight.shape, DType::i8),
               scale = Tensor::empty(quantizer->scale_shape(weight.shape));
  quantizer->weight_integers(integers, scale);
  return {graph.reshape(input, {-1, x.channels, x.height, x.width}),
          graph("DequantizeLinear",
                {graph.tensor(weight.name, channels_first(integers)),
                 graph.tensor(weight.name + "_scale", scale)},
                {{"axis", std::int64_t{0}}})};
}

// [images, channels, height, width] -> [images * height * width, channels].
Value rows_of(Graph& graph, const Picture& x) {
  return graph.reshape(graph.transpose(x.values, {0, 2, 3, 1}), {-1, x.channels});
}

Picture convolution(Graph& graph, const Picture& x, const Convolution& layer,
                    Activation after = Activation::none) {
  const kernels::Window& window = layer.window();
  const Parameter& weight = layer.weight();
  const Index out = weight.shape[0];
  Picture y{{}, out, window.positions(x.height), window.positions(x.width)};
  Quantizer* quantizer = quantizer_of(layer);
  const bool rounds = quantizer && quantizer->rounds();
  if (rounds && window.size == 1 && window.stride == 1) {  // each row may have its own scale
    const Value rows = multiply(graph, rows_of(graph, x), product_of(layer, "", quantizer));
    const Value pixels = graph.reshape(rows, {-1, y.height, y.width, out});
    y.values = activation(graph, graph.transpose(pixels, {0, 3, 1, 2}), after);
    return y;
  }
  const auto [input, kernel] = under_window(graph, x, weight, rounds ? quantizer : nullptr, channels_first);
  std::vector<Value> weights{kernel};
  if (const Value bias = parameter(graph, layer, "bias"); !bias.empty()) weights.push_back(bias);
  y.values = activation(graph, convolve(graph, input, window, 1, weights), after);
  return y;
}

Picture depthwise(Graph& graph, const Picture& x, const Depthwise& layer) {
  const kernels::Window& window = layer.window();
  const auto found = layer.named_parameters();
  const Parameter& weight = *found.front().second;  // [height, width, channels]
  Quantizer* quantizer = quantizer_of(layer);
  const auto [input, kernel] = under_window(
      graph, x, weight, quantizer && quantizer->rounds() ? quantizer : nullptr, [&](const Tensor& of) {
        const Tensor pixels = of.reshape({window.size * window.size, x.channels});
        return pixels.transpose(0, 1).clone().reshape({x.channels, 1, window.size, window.size});
      });
  return {convolve(graph, input, window, x.channels, {kernel}), x.channels, window.positions(x.height),
          window.positions(x.width)};
}

Picture normalized(Graph& graph, const Picture& x, const Module& layer, Activation after) {
  const Value gamma = parameter(graph, layer, "weight"), beta = parameter(graph, layer, "bias");
  Picture y = x;
  if (const auto* batch = dynamic_cast<const BatchNorm*>(&layer)) {
    std::vector<Value> inputs{x.values, gamma, beta};
    for (const auto& [name, buffer] : layer.named_buffers())
      inputs.push_back(graph.tensor(buffer->name, buffer->values));
    y.values =
        graph("BatchNormalization", inputs, {{"epsilon", static_cast<float>(batch->options().epsilon)}});
  } else {
    // Group normalization: instance normalization with each group as one channel, then the channels' gains
    // and biases.
    const auto& group = dynamic_cast<const GroupNorm&>(layer);
    const Index groups = group.groups();
    const auto same = [&](float value) {
      const Tensor all = Tensor::empty({groups});
      all.fill(value);
      return graph.tensor(fmt::format("{}_groups_of_{}", groups, value), all);
    };
    const Value whole = graph.reshape(x.values, {-1, groups, x.channels / groups * x.height * x.width});
    const Value normal = graph("InstanceNormalization", {whole, same(1), same(0)},
                               {{"epsilon", static_cast<float>(group.epsilon())}});
    const Value pixels = graph.reshape(normal, {-1, x.channels, x.height, x.width});
    const auto of_channels = [&](const Value& value) { return graph.reshape(value, {x.channels, 1, 1}); };
    y.values = graph("Add", {graph("Mul", {pixels, of_channels(gamma)}), of_channels(beta)});
  }
  y.values = activation(graph, y.values, after);
  return y;
}

Picture squeeze_excite(Graph& graph, const Picture& x, const SqueezeExcite& layer) {
  const Value mean = graph.reshape(graph("GlobalAveragePool", {x.values}), {-1, x.channels});
  const Value squeezed = linear(graph, mean, child<Linear>(layer, "squeeze"), Activation::relu);
  const Value factors = linear(graph, squeezed, child<Linear>(layer, "excite"), Activation::hard_sigmoid);
  Picture y = x;
  y.values = graph("Mul", {x.values, graph.reshape(factors, {-1, x.channels, 1, 1})});
  return y;
}

Picture inverted_residual(Graph& graph, const Picture& x, const InvertedResidual& layer) {
  const InvertedResidualOptions& options = layer.options();
  Picture y = x;
  if (options.expansion > 1) {
    y = convolution(graph, y, child<Convolution>(layer, "expand"));
    y = normalized(graph, y, child(layer, "expand_norm"), options.activation);
  }
  y = options.depthwise ? depthwise(graph, y, child<Depthwise>(layer, "depthwise"))
                        : convolution(graph, y, child<Convolution>(layer, "convolution"));
  y = normalized(graph, y, child(layer, "window_norm"), options.activation);
  if (options.squeeze_excite) y = squeeze_excite(graph, y, child<SqueezeExcite>(layer, "squeeze_excite"));
  y = convolution(graph, y, child<Convolution>(layer, "project"));
  y = normalized(graph, y, child(layer, "project_norm"), Activation::none);
  if (options.stride == 1 && options.in == options.out) y.values = graph("Add", {x.values, y.values});
  return y;
}

// Computes (x / 255 - mean) / deviation, by channel.
Picture pixels_to_floats(Graph& graph, const Value& images, const ImageShape& shape,
                         const ImageEncoder& encoder) {
  const Index channels = shape.channels;
  const Tensor factor = Tensor::empty({channels, 1, 1}), offset = Tensor::empty({channels, 1, 1});
  for (Index c = 0; c < channels; ++c) {
    const auto at = static_cast<std::size_t>(c);
    factor.data<float>()[c] = static_cast<float>(1 / (255 * encoder.deviation()[at]));
    offset.data<float>()[c] = static_cast<float>(-encoder.mean()[at] / encoder.deviation()[at]);
  }
  const Value numbers = graph.cast(graph.transpose(images, {0, 3, 1, 2}), ElementType::f32);
  const Value scaled = graph("Mul", {numbers, graph.tensor("image.pixel_factor", factor)});
  return {graph("Add", {scaled, graph.tensor("image.pixel_offset", offset)}), channels, shape.height,
          shape.width};
}

}  // namespace

Value encode_images(Graph& graph, const Value& images, const ImageShape& shape, const ImageEncoder& encoder) {
  const auto* stem = dynamic_cast<const Convolution*>(child_or_null(encoder, "stem"));
  require(stem != nullptr,
          "ONNX export: image.scattering's wavelets are not exported; train a model with image.scattering = "
          "false");
  Picture x = convolution(graph, pixels_to_floats(graph, images, shape, encoder), *stem);
  x = normalized(graph, x, child(encoder, "stem_norm"), Activation::hard_swish);
  for (int number = 0;; ++number) {
    const std::string name = fmt::format("blocks.{}", number);
    const Module* block = child_or_null(encoder, name);
    if (!block) break;
    const Graph::Scope scope(graph, name);
    x = inverted_residual(graph, x, dynamic_cast<const InvertedResidual&>(*block));
  }
  const Module& last = child(encoder, "last");
  if (const auto* pixels = dynamic_cast<const Convolution*>(&last)) {
    x = convolution(graph, x, *pixels);
  } else {  // a linear layer over all pixels
    const Value flat = graph.reshape(rows_of(graph, x), {-1, x.channels * x.height * x.width});
    const Linear& all = dynamic_cast<const Linear&>(*last.children().front().second);
    const Index hidden = all.weight().shape[0];
    x = {graph.reshape(linear(graph, flat, all), {-1, hidden, 1, 1}), hidden, 1, 1};
  }
  return rows_of(graph, normalized(graph, x, child(encoder, "last_norm"), Activation::hard_swish));
}

}  // namespace conclave::onnx
