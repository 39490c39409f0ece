#include <algorithm>
#include <cmath>

#include "autograd/functions/functions.h"
#include "core/kernels/activation.h"
#include "core/kernels/reduction.h"

namespace conclave::functions {

Tensor fake_quantize(Tape& tape, const Tensor& x, const Tensor& scale, const Tensor& zero_point,
                     QuantLevels levels) {
  Tensor y = tape.output(x.shape(), x.dtype(), {&x, &scale});
  kernels::fake_quantize(x, scale, zero_point, levels, y);
  tape.record("fake_quantize", {&x, &scale}, {&y}, [=](Tape& tape) {
    const GradientTarget dx = x.slot ? tape.into(x) : GradientTarget(),
                         dscale = scale.slot ? tape.into(scale) : GradientTarget();
    const ArenaScope scope(tape.arena());
    const Index rows = x.size(0);
    const Tensor of_rows = scale.slot ? tape.empty({rows}, x.dtype()) : Tensor();
    kernels::fake_quantize_backward(tape.gradient(y), x, scale, zero_point, levels, dx.gradient, dx.write,
                                    of_rows);
    if (!scale.slot) return;
    Tensor sums = of_rows;
    if (scale.numel() != rows) {
      sums = tape.empty(scale.shape(), scale.dtype());
      sums.zero();
      kernels::column_sums(of_rows.reshape({rows, 1}), sums);
    }
    // LSQ divides by the number of features. This counts those of one row, because the number of rows depends
    // on the batch and on the number of ranks.
    const double features = std::max(static_cast<double>(x.size(1)), 1.0);
    kernels::scale(sums, 1 / std::sqrt(features * levels.highest), dscale.gradient, dscale.write);
  });
  return y;
}

Tensor fake_quantize_rows(Tape& tape, const Tensor& x, QuantLevels levels) {
  Tensor y = tape.output(x.shape(), x.dtype(), {&x});
  {
    const ArenaScope scope(tape.arena());
    const auto of_rows = [&] { return tape.empty({x.size(0)}, x.dtype()); };
    const Tensor lowest = of_rows(), highest = of_rows(), scale = of_rows(), zero_point = of_rows();
    kernels::row_ranges(x, lowest, highest);
    kernels::range_scales(lowest, highest, levels, scale, zero_point);
    kernels::fake_quantize(x, scale, zero_point, levels, y);
  }
  tape.record("fake_quantize_rows", {&x}, {&y}, [=](Tape& tape) { tape.pass_gradient(tape.gradient(y), x); });
  return y;
}

}  // namespace conclave::functions
