// Writes a mixture of experts as standard ONNX operators: router, gate, and each expert applied to the rows
// routed to it.
#pragma once

#include "parallel/moe/moe_layer.h"
#include "recipes/onnx/layers.h"

namespace conclave::onnx {

/// x [rows, hidden] -> [rows, hidden]. `scores` [rows, experts], unless "", are added to the router's scores;
/// `name` is the layer's name in the model. Throws Error, with the reason, for what cannot be exported:
/// experts and routers of plug-ins, and gates that depend on the whole batch.
Value moe(Graph& graph, const Value& x, const Sequences& sequences, const Value& scores,
          const MoeLayer& layer, const std::string& name);

}  // namespace conclave::onnx
