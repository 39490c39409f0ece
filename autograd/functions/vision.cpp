#include "autograd/functions/functions.h"
#include "core/kernels/activation.h"
#include "core/kernels/convolution.h"
#include "core/kernels/depthwise.h"
#include "core/kernels/reduction.h"

namespace conclave::functions {
namespace {

// Where a kernel adds a parameter's gradient up; undefined where nobody wants it.
Tensor accumulator(Tape& tape, const Tensor& parameter) {
  if (!parameter.slot) return {};
  const auto [gradient, write] = tape.into(parameter);
  if (write == Write::assign) gradient.zero();
  return gradient;
}

}  // namespace

Tensor convolution(Tape& tape, const Tensor& x, const Tensor& weight, const Tensor& bias,
                   const kernels::Window& window, Activation activation) {
  require(weight.rank() == 4, "convolution: weight {} must be [out, size, size, in]",
          weight.shape().to_string());
  Tensor y = tape.output(kernels::window_shape("convolution", x, window, weight.size(0)), x.dtype(),
                         {&x, &weight, &bias});
  const Tensor derivative =
      y.slot && activation != Activation::none ? tape.empty(y.shape(), y.dtype()) : Tensor();
  const auto scratch = [x, window](Tape& tape) {
    return tape.empty({kernels::convolution_scratch(x, window)}, x.dtype());
  };
  {
    const ArenaScope scope(tape.arena());
    kernels::convolution(x, weight, bias, window, activation, y, derivative, scratch(tape));
  }
  tape.record("convolution", {&x, &weight, &bias}, {&y}, [=](Tape& tape) {
    const Tensor dz = tape.gradient(y);  // at the pre-activation, once multiplied by the stored derivative
    if (derivative.defined()) kernels::multiply(dz, derivative, dz);
    const auto dx = x.slot ? tape.into(x) : GradientTarget();
    const Tensor dweight = accumulator(tape, weight), dbias = accumulator(tape, bias);
    const ArenaScope scope(tape.arena());
    const Tensor memory = scratch(tape);
    if (x.slot) kernels::convolution_backward_input(dz, weight, window, dx.gradient, dx.write, memory);
    if (weight.slot)
      kernels::convolution_backward_parameters(dz, x, window, dweight, dbias, memory);
    else if (bias.slot)
      kernels::column_sums(dz.reshape({dz.numel() / dz.size(3), dz.size(3)}), dbias);
  });
  return y;
}

Tensor depthwise(Tape& tape, const Tensor& x, const Tensor& weight, const kernels::Window& window) {
  Tensor y = tape.output(kernels::window_shape("depthwise", x, window, x.rank() == 4 ? x.size(3) : 0),
                         x.dtype(), {&x, &weight});
  kernels::depthwise(x, weight, window, y);
  tape.record("depthwise", {&x, &weight}, {&y}, [=](Tape& tape) {
    const Tensor dy = tape.gradient(y);
    if (x.slot) {
      const auto [dx, write] = tape.into(x);
      kernels::depthwise_backward_input(dy, weight, window, dx, write);
    }
    if (!weight.slot) return;
    const Tensor dweight = accumulator(tape, weight);
    const ArenaScope scope(tape.arena());
    kernels::depthwise_backward_weight(
        dy, x, window, dweight,
        tape.empty({kernels::depthwise_parts(x.size(0)), window.size, window.size, x.size(3)}, x.dtype()));
  });
  return y;
}

}  // namespace conclave::functions
