// For functions with kernels that can only assign gradients.
#pragma once

#include <array>

#include "autograd/tape.h"
#include "core/kernels/activation.h"

namespace conclave::functions {

/// Calls kernel(gradients), which assigns one tensor like each of `inputs`. If an input already has a
/// gradient, the result is added to it afterwards. For inputs without a slot, the kernel writes to scratch
/// memory.
template <std::size_t kCount, class Kernel>
void assign_gradients(Tape& tape, const std::array<Tensor, kCount>& inputs, Kernel kernel) {
  std::array<GradientTarget, kCount> targets;
  for (std::size_t i = 0; i < kCount; ++i)
    if (inputs[i].slot) targets[i] = tape.into(inputs[i]);
  const ArenaScope scope(tape.arena());
  std::array<Tensor, kCount> assigned;
  for (std::size_t i = 0; i < kCount; ++i) {
    const auto& [gradient, write] = targets[i];
    const bool direct = gradient.defined() && write == Write::assign;
    assigned[i] = direct ? gradient : tape.empty(inputs[i].shape(), inputs[i].dtype());
  }
  kernel(assigned);
  for (std::size_t i = 0; i < kCount; ++i)
    if (targets[i].gradient.defined() && targets[i].write == Write::accumulate)
      kernels::scale(assigned[i], 1.0, targets[i].gradient, Write::accumulate);
}

}  // namespace conclave::functions
