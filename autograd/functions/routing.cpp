#include <array>

#include "autograd/functions/assigned.h"
#include "autograd/functions/functions.h"
#include "core/kernels/activation.h"
#include "core/kernels/gate.h"
#include "core/kernels/permutation.h"

namespace conclave::functions {

Gate top_k_gate(Tape& tape, const Tensor& probabilities, const kernels::Selection& selection, Index k,
                kernels::TopP top_p) {
  require(probabilities.rank() == 2, "top_k_gate: probabilities {} must be [tokens, experts]",
          probabilities.shape());
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
          "concatenate: a {} and b {} differ in rows or element type", a.shape(), b.shape());
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

std::pair<Tensor, Tensor> split_rows(Tape& tape, const Tensor& x, Index at) {
  Tensor head = x.rows(0, at), tail = x.rows(at, x.size(0));
  if (!tape.recording() || !x.slot) return {head, tail};
  tape.watch(head);
  tape.watch(tail);
  tape.record("split_rows", {&x}, {&head, &tail}, [=](Tape& tape) {
    const auto [dx, write] = tape.into(x);
    kernels::scale(tape.gradient(head), 1.0, dx.rows(0, at), write);
    kernels::scale(tape.gradient(tail), 1.0, dx.rows(at, dx.size(0)), write);
  });
  return {head, tail};
}

Tensor join_rows(Tape& tape, const Tensor& head, const Tensor& tail) {
  require(
      head.rank() == 2 && tail.rank() == 2 && head.size(1) == tail.size(1) && head.dtype() == tail.dtype(),
      "join_rows: head {} and tail {} differ in columns or element type", head.shape(), tail.shape());
  const Index at = head.size(0);
  Tensor y = tape.output({at + tail.size(0), head.size(1)}, head.dtype(), {&head, &tail});
  kernels::scale(head, 1.0, y.rows(0, at));
  kernels::scale(tail, 1.0, y.rows(at, y.size(0)));
  tape.record("join_rows", {&head, &tail}, {&y}, [=](Tape& tape) {
    const Tensor dy = tape.gradient(y);
    for (const auto& [part, dpart] : {std::pair(&head, dy.rows(0, at)), {&tail, dy.rows(at, dy.size(0))}}) {
      if (!part->slot) continue;
      const auto [dx, write] = tape.into(*part);
      kernels::scale(dpart, 1.0, dx, write);
    }
  });
  return y;
}

Tensor merge_rows(Tape& tape, const Tensor& head, const Tensor& tail, const Tensor& slots) {
  require(head.rank() == 2 && tail.rank() == 2 && head.size(1) == tail.size(1),
          "merge_rows: head {} and tail {} differ in columns", head.shape(), tail.shape());
  Tensor y = tape.output({head.size(0) + tail.size(0), head.size(1)}, head.dtype(), {&head, &tail});
  kernels::combine_rows(std::array{head, tail}, slots, Tensor(), y, Write::assign);
  tape.record("merge_rows", {&head, &tail}, {&y}, [=](Tape& tape) {
    const Tensor dy = tape.gradient(y);
    assign_gradients(tape, std::array{head, tail},
                     [&](const auto& rows) { kernels::gather_rows(dy, slots, rows); });
  });
  return y;
}

}  // namespace conclave::functions
