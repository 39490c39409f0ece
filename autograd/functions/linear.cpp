#include "autograd/functions/accumulator.h"
#include "autograd/functions/functions.h"
#include "autograd/functions/panels.h"
#include "core/kernels/activation.h"
#include "core/kernels/reduction.h"

namespace conclave::functions {

Tensor reshape(const Tensor& x, const Shape& shape) {
  Tensor view = x.reshape(shape);
  view.slot = x.slot;
  return view;
}

Tensor grouped_linear(Tape& tape, const Tensor& x, kernels::RowOffsets offsets, const Tensor& weight,
                      const Tensor& bias, Activation activation) {
  require(weight.rank() == 3 && x.rank() == 2,
          "linear: x {} and weight {}, expected [rows, in] and [groups, out, in]", x.shape(), weight.shape());
  Tensor y = tape.output({x.size(0), weight.size(1)}, x.dtype(), {&x, &weight, &bias});
  const Tensor derivative =
      y.slot && activation != Activation::none ? tape.empty(y.shape(), y.dtype()) : Tensor();
  // In inference, the result for a text must not depend on the other texts in its batch, to the last bit.
  kernels::grouped_linear(x, offsets, weight, bias, activation, y, derivative,
                          tape.recording() ? kernels::RowBits::fastest : kernels::RowBits::independent,
                          panels_of(tape, weight));
  if (!y.slot) return y;
  const kernels::RowOffsets groups = tape.arena().copy(offsets);
  const ExampleRows apart = tape.examples_of("linear", x.size(0), {&weight, &bias});
  tape.record("linear", {&x, &weight, &bias}, {&y}, [=](Tape& tape) {
    // dz is the gradient at the pre-activation: dy times the stored derivative. If examples are told apart,
    // dz is stored over the derivative, because the notes keep it; else over dy.
    const Tensor dy = tape.gradient(y), dz = apart && derivative.defined() ? derivative : dy;
    if (derivative.defined()) kernels::multiply(dy, derivative, dz);
    if (x.slot) {
      const auto [dx, write] = tape.into(x);
      kernels::grouped_linear_backward_input(dz, groups, weight, dx, write);
    }
    if (apart)
      return apart.gradients->product(apart, dz, x, groups, weight, bias,
                                      derivative.defined() ? derivative : y);
    if (weight.slot || bias.slot) {
      const Tensor dbias = accumulator(tape, bias);
      if (weight.slot) {
        kernels::grouped_linear_backward_parameters(dz, x, groups, accumulator(tape, weight), dbias);
      } else {
        for (Index g = 0; g < weight.size(0); ++g)
          kernels::column_sums(
              dz.rows(groups[static_cast<std::size_t>(g)], groups[static_cast<std::size_t>(g) + 1]),
              dbias.rows(g, g + 1).reshape({dbias.size(1)}));
      }
    }
  });
  return y;
}

Tensor linear(Tape& tape, const Tensor& x, const Tensor& weight, const Tensor& bias, Activation activation) {
  require(weight.rank() == 2, "linear: weight {} must be [out, in]", weight.shape());
  const Tensor grouped = reshape(weight, {1, weight.size(0), weight.size(1)}),
               grouped_bias = bias.defined() ? reshape(bias, {1, bias.size(0)}) : bias;
  const Index offsets[] = {0, x.size(0)};
  return grouped_linear(tape, x, offsets, grouped, grouped_bias, activation);
}

Tensor matmul(Tape& tape, const Tensor& a, const Tensor& b) {
  using kernels::Transpose;
  require(a.rank() == 2 && b.rank() == 2, "matmul: a {} and b {} must be matrices", a.shape(), b.shape());
  Tensor y = tape.output({a.size(0), b.size(1)}, a.dtype(), {&a, &b});
  kernels::matmul(a, Transpose::no, b, Transpose::no, y);
  tape.record("matmul", {&a, &b}, {&y}, [=](Tape& tape) {
    const Tensor dy = tape.gradient(y);
    if (a.slot) {
      const auto [da, write] = tape.into(a);
      kernels::matmul(dy, Transpose::no, b, Transpose::yes, da, write);
    }
    if (b.slot) {
      const auto [db, write] = tape.into(b);
      kernels::matmul(a, Transpose::yes, dy, Transpose::no, db, write);
    }
  });
  return y;
}

}  // namespace conclave::functions
