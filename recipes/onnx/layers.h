// Layers as nodes of an ONNX graph. What a layer consists of is found by walking the model's modules.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "autograd/nn/layers.h"
#include "recipes/onnx/graph.h"

namespace conclave::onnx {

/// The part of that name, also of a part without one; null where there is none.
Module* child_or_null(const Module& module, std::string_view name);
/// Throws Error unless it is there, and a T.
template <class T = Module>
T& child(const Module& module, std::string_view name) {
  auto* found = dynamic_cast<T*>(child_or_null(module, name));
  require(found != nullptr, "ONNX export: a part '{}' of the kind that is known is missing", name);
  return *found;
}
/// Of the module; "" where it has none of that name.
Value parameter(Graph& graph, const Module& module, std::string_view name);

/// A product with a weight, or, of experts, with a weight for each of several groups of rows.
struct Product {
  std::string name;             ///< of the weight
  std::vector<Tensor> weights;  ///< of each group: f32 [out, in]; of products in integers, i8 [in, out]
  Tensor bias = {};             ///< [groups, out]; may be undefined
  // Of products in integers:
  Tensor scale = {};        ///< [groups, out]
  Tensor sums = {};         ///< likewise: of a channel's numbers
  QuantLevels levels = {};  ///< of the input
  std::vector<std::pair<float, float>> inputs =
      {};  ///< scale and zero point of each group's; none: rows' own
};
/// Of the layer's parameters `prefix`weight and `prefix`bias, which for `experts` have a slice for each
/// group.
Product product_of(const Module& layer, const std::string& prefix, Quantizer* quantizer,
                   bool experts = false);
/// What rounds a layer's product; null where nothing does.
Quantizer* quantizer_of(const Module& layer);

/// Which rows are of which group: those of the first group come first, and so on.
struct Groups {
  Value counts;   ///< [groups] i64
  Value of_rows;  ///< [rows] i64
};
/// x [rows, in] -> x weight^T + bias [rows, out]; `groups` where there are several.
Value multiply(Graph& graph, const Value& x, const Product& product, const Groups& groups = {});
/// x [rows, in], as rounding leaves it; `input` is its scale and zero point, without which rows have their
/// own.
Value rounded(Graph& graph, const Value& x, QuantLevels levels,
              const std::optional<std::pair<float, float>>& input);

Value activation(Graph& graph, const Value& x, Activation activation);
Value linear(Graph& graph, const Value& x, const Linear& layer, Activation after = Activation::none);
Value layer_norm(Graph& graph, const Value& x, const LayerNorm& layer);
Value feed_forward(Graph& graph, const Value& x, const FeedForward& layer);

/// How rows [batch * length, ...] are of sequences, which are as long as the longest.
struct Sequences {
  Value batch, length;  ///< [1] i64 each
  Value mask;           ///< [batch, length] f32, 1 for rows that are there, 0 behind them; "": all are there

  /// x [batch * length, n] -> [batch, length, n]
  Value apart(Graph& graph, const Value& x, std::int64_t n) const;
  /// [batch, 1]: how many are there.
  Value count(Graph& graph) const;
  /// x [batch * length, n] -> [batch, n], of the rows that are there; of none, 0.
  Value mean(Graph& graph, const Value& x, std::int64_t n) const;
  Value maximum(Graph& graph, const Value& x, std::int64_t n) const;
};

struct Heads {
  Index hidden, count;
};
/// Rows of one kind of sequences attend to those of another: all [rows, hidden].
Value attend(Graph& graph, const Heads& heads, const Value& queries, const Sequences& of, const Value& keys,
             const Value& values, const Sequences& to);
/// x [rows, hidden] -> [rows, hidden]; or the mean of that, [batch, hidden].
Value attention(Graph& graph, const Value& x, const Sequences& sequences, const MultiHeadAttention& layer,
                bool mean = false);

}  // namespace conclave::onnx
