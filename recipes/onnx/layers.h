// Writes layers as nodes of an ONNX graph. The structure of a layer is found by walking the model's modules.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "autograd/nn/layers.h"
#include "recipes/onnx/graph.h"

namespace conclave::onnx {

/// The child module called `name`, also searched for within unnamed children; null if there is none.
Module* child_or_null(const Module& module, std::string_view name);
/// The child module called `name` as a T; throws Error if it is missing or not a T.
template <class T = Module>
T& child(const Module& module, std::string_view name) {
  auto* found = dynamic_cast<T*>(child_or_null(module, name));
  require(found != nullptr, "ONNX export: the model has no part '{}' of an exportable kind", name);
  return *found;
}
/// The module's parameter called `name` as a tensor of the graph; "" if there is none.
Value parameter(Graph& graph, const Module& module, std::string_view name);

/// A product of rows with one weight, or, for experts, with one weight per group of rows.
struct Product {
  std::string name;             ///< name of the weight
  std::vector<Tensor> weights;  ///< one per group: f32 [out, in]; for integer products i8 [in, out]
  Tensor bias = {};             ///< [groups, out]; may be undefined
  // Only for integer products:
  Tensor scale = {};        ///< [groups, out]
  Tensor sums = {};         ///< [groups, out], sum of a channel's dequantized weights
  QuantLevels levels = {};  ///< levels of the input
  std::vector<std::pair<float, float>> inputs =
      {};  ///< each group's scale and zero point; empty: one for each row
};
/// The product with the layer's parameters `prefix`weight and `prefix`bias. With `experts` these have one
/// slice per group.
Product product_of(const Module& layer, const std::string& prefix, Quantizer* quantizer,
                   bool experts = false);
/// The quantizer that rounds a layer's product; null if there is none.
Quantizer* quantizer_of(const Module& layer);

/// Assignment of rows to groups; rows are sorted by group.
struct Groups {
  Value counts;   ///< [groups] i64, rows in each group
  Value of_rows;  ///< [rows] i64, group of each row
};
/// x [rows, in] -> x weight^T + bias [rows, out]; `groups` is required for several weights.
Value multiply(Graph& graph, const Value& x, const Product& product, const Groups& groups = {});
/// x [rows, in] after quantization and dequantization. `input` is a fixed scale and zero point; without it
/// each row gets its own.
Value rounded(Graph& graph, const Value& x, QuantLevels levels,
              const std::optional<std::pair<float, float>>& input);

Value activation(Graph& graph, const Value& x, Activation activation);
Value linear(Graph& graph, const Value& x, const Linear& layer, Activation after = Activation::none);
Value layer_norm(Graph& graph, const Value& x, const LayerNorm& layer);
Value feed_forward(Graph& graph, const Value& x, const FeedForward& layer);

/// Layout of rows [batch * length, ...]: sequences padded to the longest.
struct Sequences {
  Value batch, length;  ///< [1] i64 each
  Value mask;           ///< [batch, length] f32, 1 for real rows, 0 for padding; "": no padding

  /// x [batch * length, n] -> [batch, length, n]
  Value apart(Graph& graph, const Value& x, std::int64_t n) const;
  /// [batch, 1]: number of real rows in each sequence. Requires a mask.
  Value count(Graph& graph) const;
  /// x [batch * length, n] -> [batch, n] over the real rows; 0 for a sequence without any.
  Value mean(Graph& graph, const Value& x, std::int64_t n) const;
  Value maximum(Graph& graph, const Value& x, std::int64_t n) const;
};

struct Heads {
  Index hidden, count;
};
/// Cross-attention: the rows of `of` (queries) attend to the rows of `to` (keys, values). All tensors are
/// [rows, hidden].
Value attend(Graph& graph, const Heads& heads, const Value& queries, const Sequences& of, const Value& keys,
             const Value& values, const Sequences& to);
/// Self-attention, x [rows, hidden] -> [rows, hidden]; with `mean`, averaged over each sequence: [batch,
/// hidden].
Value attention(Graph& graph, const Value& x, const Sequences& sequences, const MultiHeadAttention& layer,
                bool mean = false);

}  // namespace conclave::onnx
