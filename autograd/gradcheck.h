// Is a function's backward the derivative of its forward? Compares it, in f64, with central differences.
#pragma once

#include <functional>
#include <span>

#include "autograd/tape.h"

namespace conclave {

struct GradcheckResult {
  double worst = 0;  ///< largest |analytic - numeric| / max(1, |analytic|, |numeric|) over all elements
  int input = -1;    ///< where it was
  Index element = -1;
  double analytic = 0, numeric = 0;
};

/// `function` maps the inputs (f64, given a slot) to one output of any shape; the loss is a fixed random
/// weighting of the output's elements. Differences of 4th order with this step: error O(step^4) against
/// rounding of 1e-16 / step.
GradcheckResult gradcheck(const std::function<Tensor(Tape&, std::span<const Tensor>)>& function,
                          std::vector<Tensor> inputs, double step = 1e-3);

}  // namespace conclave
