// A mixture of experts of standard operators: router, gate, and each expert on the rows that were sent to it.
#pragma once

#include "parallel/moe/moe_layer.h"
#include "recipes/onnx/layers.h"

namespace conclave::onnx {

/// x [rows, hidden] -> [rows, hidden]. `scores` [rows, experts], or "", are added to the router's; `name`
/// is the layer's in the model. Throws Error, with the reason, for what cannot be exported: experts and
/// routers of plug-ins, and gates that look at the whole batch.
Value moe(Graph& graph, const Value& x, const Sequences& sequences, const Value& scores,
          const MoeLayer& layer, const std::string& name);

}  // namespace conclave::onnx
