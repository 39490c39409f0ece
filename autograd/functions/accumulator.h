// For functions with kernels that can only add to a gradient.
#pragma once

#include "autograd/tape.h"

namespace conclave::functions {

/// The gradient of `input` for such a kernel to add to; zeroed if this is the first contribution. Undefined
/// if `input` has no slot.
inline Tensor accumulator(Tape& tape, const Tensor& input) {
  if (!input.slot) return {};
  const auto [gradient, write] = tape.into(input);
  if (write == Write::assign) gradient.zero();
  return gradient;
}

}  // namespace conclave::functions
