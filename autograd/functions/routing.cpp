#include "autograd/functions/functions.h"
#include "core/kernels/gate.h"
#include "core/kernels/permutation.h"

namespace conclave::functions {

Gate top_k_gate(Tape& tape, const Tensor& probabilities, const kernels::Selection& selection, Index k,
                kernels::TopP top_p) {
  require(probabilities.rank() == 2, "top_k_gate: probabilities {} must be [tokens, experts]",
          probabilities.shape().to_string());
  const Index tokens = probabilities.size(0);
  Gate gate{tape.empty({tokens, k}, DType::i32),
            tape.output({tokens, k}, probabilities.dtype(), {&probabilities})};
  kernels::top_k_gate(probabilities, selection, gate.experts, gate.weights, top_p);
  tape.record("top_k_gate", {&probabilities}, {&gate.weights}, [=](Tape& tape) {
    const auto [dprobabilities, write] = tape.into(probabilities);
    kernels::top_k_gate_backward(tape.gradient(gate.weights), probabilities, gate.experts, gate.weights,
                                 dprobabilities, write);
  });
  return gate;
}

Tensor concatenate(Tape& tape, const Tensor& a, const Tensor& b) {
  require(a.rank() == 2 && b.rank() == 2 && a.size(0) == b.size(0) && a.dtype() == b.dtype(),
          "concatenate: a {} and b {} differ in rows or element type", a.shape().to_string(),
          b.shape().to_string());
  Tensor y = tape.output({a.size(0), a.size(1) + b.size(1)}, a.dtype(), {&a, &b});
  kernels::concatenate_columns(a, b, y);
  tape.record("concatenate", {&a, &b}, {&y}, [=](Tape& tape) {
    const Tensor dy = tape.gradient(y);
    if (a.slot) {
      const auto [da, write] = tape.into(a);
      kernels::take_columns(dy, 0, da, write);
    }
    if (b.slot) {
      const auto [db, write] = tape.into(b);
      kernels::take_columns(dy, a.size(1), db, write);
    }
  });
  return y;
}

}  // namespace conclave::functions
