#include "recipes/onnx/moe.h"

namespace conclave::onnx {
namespace {

void expect_exportable(const MoeLayer& layer) {
  const MoeOptions& options = layer.options();
  require(options.gate == "top_k",
          "ONNX export: with moe.gate = \"{}\" a text's experts depend on the other texts in the batch, "
          "which a graph cannot reproduce for single texts; train a model with top_k",
          options.gate);
  require(!options.balance_inference,
          "ONNX export: with moe.balance_inference a text's experts depend on the other texts in the batch, "
          "which a graph cannot reproduce for single texts; export with --set moe.balance_inference=false");
  require(
      options.router == "linear" || options.router == "attention" || options.router == "attention_token",
      "ONNX export: router '{}' has no translation to ONNX operators; linear, attention and attention_token "
      "have one (a new router that is not a plug-in's needs one in recipes/onnx/moe.cpp)",
      options.router);
  for (const MixedExperts::Kind& kind : layer.experts().kinds())
    require(kind.experts->name() == "feed_forward" || kind.experts->name() == "gated",
            "ONNX export: {} have no translation to ONNX operators; feed_forward and gated have one (a new "
            "kind that is not a plug-in's needs one in recipes/onnx/moe.cpp)",
            kind.experts->described());
}

// [rows, experts]
Value router_scores(Graph& graph, const Value& x, const Sequences& sequences, const MoeLayer& layer) {
  const auto& router = child<Router>(layer, "router");
  if (router.scope() == RouterScope::token)
    return multiply(graph, x, product_of(router, "", quantizer_of(router)));
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

// Both [rows, top_k]; entries that are not chosen have expert -1 and weight 0.
struct Choice {
  Value experts, weights;
};

// Must match kernels::top_k_gate.
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
    // An expert is taken while the shares of the experts before it are below p, and in any case up to the
    // minimum number.
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
  const Value sum = graph("Max", {graph("ReduceSum", {weights, graph.integers({1})}),
                                  graph.scalar(static_cast<float>(kernels::kLeastShare))});
  return {experts, graph("Div", {weights, sum})};
}

// Applies the experts of one kind to their rows x [rows, hidden].
Value compute(Graph& graph, const Value& x, const BaseExpert& experts, const Groups& groups) {
  const auto by = [&](const char* name, const Value& rows) {
    auto* quantizer = dynamic_cast<Quantizer*>(child_or_null(experts, name));
    return multiply(graph, rows, product_of(experts, std::string(name) + ".", quantizer, true), groups);
  };
  if (experts.name() == "feed_forward") return by("down", activation(graph, by("up", x), Activation::gelu));
  return by("down", graph("Mul", {activation(graph, by("gate", x), Activation::silu), by("up", x)}));
}

}  // namespace

// Each row makes top_k choices of an expert; choices are numbered row by row. Sorting the choices by expert
// tells which rows each expert receives. The experts' results are scattered back to the choices' places, and
// each row's results are summed with the gate's weights. ONNX Runtime takes a third of the time it needs for
// all experts on all rows as one product (measured for 2 of 8 experts, 128 rows, hidden 128 and 256).
Value moe(Graph& graph, const Value& x, const Sequences& sequences, const Value& scores,
          const MoeLayer& layer, const std::string& name) {
  expect_exportable(layer);
  const MoeOptions& options = layer.options();
  Value logits = router_scores(graph, x, sequences, layer);
  if (!scores.empty()) logits = graph("Add", {logits, scores});
  const Choice choice = choose(graph, graph("Softmax", {logits}, {{"axis", std::int64_t{-1}}}), layer, name);
  const Value chosen = graph.reshape(choice.experts, {-1}), choices = graph("Shape", {chosen});
  const std::vector<Attribute> first{{"axis", std::int64_t{0}}};

  const auto& kinds = layer.experts().kinds();
  // A choice that was not made has number -1 and is sorted to the front.
  const bool some_not_made = options.top_p.p < 1;
  Integers numbers, of_kinds;
  if (some_not_made) numbers.push_back(-1);
  for (Index e = 0; e < options.experts; ++e) numbers.push_back(e);
  const auto sorted = graph.several(2, "TopK", {chosen, choices}, {{"largest", std::int64_t{0}}});
  const Value is_of = graph("Equal", {graph.reshape(graph.integers(numbers), {-1, 1}), chosen});
  const Value counts = graph("ReduceSum", {graph.cast(is_of, ElementType::i64), graph.integers({1})},
                             {{"keepdims", std::int64_t{0}}});
  // Number of entries of `counts` for the choices not made and for each kind of experts.
  if (some_not_made) of_kinds.push_back(1);
  for (const MixedExperts::Kind& kind : kinds) of_kinds.push_back(kind.total);
  std::vector<Value> kind_counts{counts}, kind_places{sorted[1]}, kind_experts{sorted[0]};
  if (const std::size_t parts = of_kinds.size(); parts > 1) {
    kind_counts = graph.several(parts, "Split", {counts, graph.integers(of_kinds)}, first);
    std::vector<Value> rows;
    for (const Value& each : kind_counts) rows.push_back(graph("ReduceSum", {each}));
    const Value of_parts = graph("Concat", rows, first);
    kind_places = graph.several(parts, "Split", {sorted[1], of_parts}, first);
    kind_experts = graph.several(parts, "Split", {sorted[0], of_parts}, first);
  }
  std::vector<Value> places, results;
  for (std::size_t k = 0; k < kinds.size(); ++k) {
    const std::size_t at = k + (some_not_made ? 1 : 0);
    const Graph::Scope scope(graph, kinds[k].experts->name());
    const Value rows = graph("Gather", {x, graph("Div", {kind_places[at], graph.scalar(options.top_k)})});
    const Value experts = graph("Sub", {kind_experts[at], graph.scalar(kinds[k].before)});
    places.push_back(kind_places[at]);
    results.push_back(compute(graph, rows, *kinds[k].experts, {kind_counts[at], experts}));
  }
  const Value shape = graph("Concat", {choices, graph.integers({options.hidden})}, first);
  const Value all = graph(
      "ScatterND", {graph("ConstantOfShape", {shape}), graph.reshape(graph("Concat", places, first), {-1, 1}),
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
