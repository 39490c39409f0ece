#include "autograd/functions/functions.h"
#include "core/kernels/activation.h"
#include "core/kernels/dropout.h"

namespace conclave::functions {
Tensor activation(Tape& tape, const Tensor& x, Activation kind) {
  Tensor y = tape.output(x.shape(), x.dtype(), {&x});
  const Tensor derivative = y.slot ? tape.empty(x.shape(), x.dtype()) : Tensor();
  kernels::activation(x, kind, y, derivative);
  tape.record("activation", {&x}, {&y}, [=](Tape& tape) {
    const auto [dx, write] = tape.into(x);
    kernels::multiply(tape.gradient(y), derivative, dx, write);
  });
  return y;
}

Tensor add(Tape& tape, const Tensor& a, const Tensor& b) {
  Tensor y = tape.output(a.shape(), a.dtype(), {&a, &b});
  kernels::add(a, b, y);
  tape.record("add", {&a, &b}, {&y}, [=](Tape& tape) {
    const Tensor dy = tape.gradient(y);
    if (a.slot) {
      const auto [da, write] = tape.into(a);
      kernels::scale(dy, 1.0, da, write);
    }
    tape.pass_gradient(dy, b);
  });
  return y;
}

Tensor multiply(Tape& tape, const Tensor& a, const Tensor& b) {
  Tensor y = tape.output(a.shape(), a.dtype(), {&a, &b});
  kernels::multiply(a, b, y);
  tape.record("multiply", {&a, &b}, {&y}, [=](Tape& tape) {
    const Tensor dy = tape.gradient(y);
    if (a.slot) {
      const auto [da, write] = tape.into(a);
      kernels::multiply(dy, b, da, write);
    }
    if (b.slot) {
      const auto [db, write] = tape.into(b);
      kernels::multiply(dy, a, db, write);
    }
  });
  return y;
}

Tensor scale(Tape& tape, const Tensor& x, double factor) {
  Tensor y = tape.output(x.shape(), x.dtype(), {&x});
  kernels::scale(x, factor, y);
  tape.record("scale", {&x}, {&y}, [=](Tape& tape) {
    const auto [dx, write] = tape.into(x);
    kernels::scale(tape.gradient(y), factor, dx, write);
  });
  return y;
}

Tensor dropout(Tape& tape, const Tensor& x, const Tensor& residual, double rate, const RandomStream& stream,
               Index first) {
  Tensor y = tape.output(x.shape(), x.dtype(), {&x, &residual});
  const Tensor mask = tape.empty(x.shape(), DType::u8);
  kernels::dropout(x, residual, rate, stream, first, y, mask);
  tape.record("dropout", {&x, &residual}, {&y}, [=](Tape& tape) {
    if (x.slot) {
      const auto [dx, write] = tape.into(x);
      kernels::dropout_backward(tape.gradient(y), mask, rate, dx, write);
    }
    tape.pass_gradient(tape.gradient(y), residual);
  });
  return y;
}

}  // namespace conclave::functions
