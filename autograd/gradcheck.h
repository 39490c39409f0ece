// Tests whether a function's backward is the derivative of its forward, by central differences in f64.
#pragma once

#include <functional>
#include <span>

#include "autograd/tape.h"

namespace conclave {

struct GradcheckResult {
  double worst = 0;  ///< largest |analytic - numeric| / max(1, |analytic|, |numeric|) over all elements
  int input = -1;    ///< the input and element where it occurred
  Index element = -1;
  double analytic = 0, numeric = 0;
};

/// `function` maps the inputs (f64, given a slot) to one output of any shape; the loss is a weighted sum of
/// the output's elements with fixed random weights. Differences are of 4th order: error O(step^4), plus
/// rounding of about 1e-16 / step.
GradcheckResult gradcheck(const std::function<Tensor(Tape&, std::span<const Tensor>)>& function,
                          std::vector<Tensor> inputs, double step = 1e-3);

}  // namespace conclave
