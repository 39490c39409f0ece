// For functions whose kernels only ever add to a gradient.
#pragma once

#include "autograd/tape.h"

namespace conclave::functions {

/// Where such a kernel adds up what comes to `input`: its gradient, cleared where this is the first
/// contribution; undefined where nobody wants it.
inline Tensor accumulator(Tape& tape, const Tensor& input) {
  if (!input.slot) return {};
  const auto [gradient, write] = tape.into(input);
  if (write == Write::assign) gradient.zero();
  return gradient;
}

}  // namespace conclave::functions
