#include "recipes/onnx/moe.h"

namespace conclave::onnx {
namespace {

void expect_exportable(const MoeLayer& layer) {
  const MoeOptions& options = layer.options();
  require(
      options.gate == "top_k",
      "ONNX export: moe.gate = \"{}\" has a text's experts depend on what is beside it in the batch, which a "
      "file for others cannot know; train a model with top_k",
      options.gate);
  require(!options.balance_inference,
          "ONNX export: moe.balance_inference has a text's experts depend on what is beside it in the batch, "
          "which a file for others cannot know; export with --set moe.balance_inference=false");
  require(options.router == "linear" || options.router == "attention" || options.router == "attention_token",
          "ONNX export: router '{}' is a plug-in's, of which only its own code knows what it computes",
          options.router);
  for (const MixedExperts::Kind& kind : layer.experts().kinds())
    require(kind.experts->name() == "feed_forward" || kind.experts->name() == "gated",
            "ONNX export: {} are a plug-in's, of which only its own code knows what they compute",
            kind.experts->described());
}

// [rows, experts]
Value router_scores(Graph& graph, const Value& x, const Sequences& sequences, const MoeLayer& layer) {
  const auto& router = child<Router>(layer, "router");
  if (router.scope() == RouterScope::token)
    return product(graph, x, product_weight(graph, router, "", quantizer_of(router)));
  const bool one = router.scope() == RouterScope::sequence;
  const auto& attention_layer = child<MultiHeadAttention>(router, "attention");
  const Value decisions =
      linear(graph, attention(graph, x, sequences, attention_layer, one), child<Linear>(router, "score"));
  if (!one) return decisions;
  const Index experts = layer.options().experts;
  const Value shape = graph("Concat", {sequences.batch, sequences.length, graph.integers({experts})},
                            {{"axis", std::int64_t{0}}});
  const Value repeated = graph("Expand", {graph("Unsqueeze", {decisions, graph.integers({1})}), shape});
  return graph.reshape(repeated, {-1, experts});
}

// Both [rows, top_k]; where fewer are chosen, -1 and 0.
struct Choice {
  Value experts, weights;
};

// As kernels::top_k_gate.
Choice choose(Graph& graph, const Value& probabilities, const MoeLayer& layer, const std::string& name) {
  const MoeOptions& options = layer.options();
  const kernels::Selection selection = layer.balancer().selection();
  Value shares = probabilities;
  if (selection.factor.defined())
    shares = graph("Mul", {shares, graph.tensor(name + ".router.selection_factor", selection.factor)});
  Value compared = shares;
  if (selection.bias.defined())
    compared = graph("Add", {shares, graph.tensor(name + ".router.selection_bias", selection.bias)});
  const auto best = graph.several(2, "TopK", {compared, graph.integers({options.top_k})});
  const std::vector<Attribute> along{{"axis", std::int64_t{1}}};
  Value weights = graph("GatherElements", {probabilities, best[1]}, along), experts = best[1];
  if (options.top_p.p < 1) {
    // One is taken while those before it have not reached p, and up to the least number in any case.
    const Value own = graph("GatherElements", {shares, best[1]}, along);
    const Value before =
        graph("CumSum", {own, graph.scalar(std::int64_t{1})}, {{"exclusive", std::int64_t{1}}});
    const Value all = graph("ReduceSum", {shares, graph.integers({1})});
    const Value enough = graph("Mul", {all, graph.scalar(static_cast<float>(options.top_p.p))});
    Integers numbers(static_cast<std::size_t>(options.top_k));
    for (std::size_t i = 0; i < numbers.size(); ++i) numbers[i] = static_cast<std::int64_t>(i);
    const Value at_least = graph("Less", {graph.integers(numbers), graph.scalar(options.top_p.least)});
    const Value taken = graph("Or", {graph("Less", {before, enough}), at_least});
    weights = graph("Where", {taken, weights, graph.scalar(0.0F)});
    experts = graph("Where", {taken, experts, graph.scalar(std::int64_t{-1})});
  }
  return {experts, graph("Div", {weights, graph("ReduceSum", {weights, graph.integers({1})})})};
}

// What expert number `number` of a kind makes of x [n, hidden].
Value expert(Graph& graph, const Value& x, const BaseExpert& experts, Index number) {
  const auto multiply = [&](const char* name, const Value& rows) {
    auto* quantizer = dynamic_cast<Quantizer*>(child_or_null(experts, name));
    return product(graph, rows, product_weight(graph, experts, std::string(name) + ".", quantizer, number));
  };
  if (experts.name() == "feed_forward")
    return multiply("down", activation(graph, multiply("up", x), Activation::gelu));
  const Value gate = activation(graph, multiply("gate", x), Activation::silu);
  return multiply("down", graph("Mul", {gate, multiply("up", x)}));
}

}  // namespace

// Choices are numbered row by row, top_k each. An expert gathers the rows of its choices, and what it makes
// of them is put in the choices' places, whose sums by the gate's weights are the result. With 2 of 8
// experts, ONNX Runtime takes a third of the time that it takes for all experts on all rows as one product
// (128 rows, of hidden 128 and of 256).
Value moe(Graph& graph, const Value& x, const Sequences& sequences, const Value& scores,
          const MoeLayer& layer, const std::string& name) {
  expect_exportable(layer);
  const MoeOptions& options = layer.options();
  Value logits = router_scores(graph, x, sequences, layer);
  if (!scores.empty()) logits = graph("Add", {logits, scores});
  const Choice choice = choose(graph, graph("Softmax", {logits}, {{"axis", std::int64_t{-1}}}), layer, name);
  const Value chosen = graph.reshape(choice.experts, {-1});
  const Value top_k = graph.scalar(options.top_k);
  std::vector<Value> places, results;
  for (const MixedExperts::Kind& kind : layer.experts().kinds())
    for (Index number = 0; number < kind.total; ++number) {
      const Graph::Scope scope(graph, fmt::format("experts.{}", kind.before + number));
      const Value own = graph("NonZero", {graph("Equal", {chosen, graph.scalar(kind.before + number)})});
      places.push_back(graph.reshape(own, {-1, 1}));
      const Value rows = graph("Gather", {x, graph("Div", {graph.reshape(own, {-1}), top_k})});
      results.push_back(expert(graph, rows, *kind.experts, number));
    }
  const std::vector<Attribute> first{{"axis", std::int64_t{0}}};
  const Value shape = graph("Concat", {graph("Shape", {chosen}), graph.integers({options.hidden})}, first);
  const Value all = graph("ScatterND", {graph("ConstantOfShape", {shape}), graph("Concat", places, first),
                                        graph("Concat", results, first)});
  const Value weighed = graph("Mul", {all, graph.reshape(choice.weights, {-1, 1})});
  Value y =
      graph("ReduceSum", {graph.reshape(weighed, {-1, options.top_k, options.hidden}), graph.integers({1})},
            {{"keepdims", std::int64_t{0}}});
  if (const Module* shared = child_or_null(layer, "shared"))
    y = graph("Add", {y, feed_forward(graph, x, dynamic_cast<const FeedForward&>(*shared))});
  return y;
}

}  // namespace conclave::onnx
