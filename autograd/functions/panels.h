// For functions whose weights inference packs once.
#pragma once

#include "autograd/functions/functions.h"

namespace conclave::functions {

/// kernels::pack_weight() of a parameter for inference [groups, out, in], made by the first pass that does
/// not record for all that follow; undefined where the weight is anything else, or on a device.
inline Tensor panels_of(const Tape& tape, const Tensor& weight) {
  if (tape.recording() || !weight.slot || !weight.slot->panels || weight.device() != Device::cpu) return {};
  Tensor& panels = *weight.slot->panels;
  const Shape shape = kernels::panels_shape(weight);
  if (!panels.defined()) {
    panels = Tensor::empty(shape, weight.dtype());
    kernels::pack_weight(weight, panels);
  }
  return panels.shape() == shape ? panels : Tensor();
}

}  // namespace conclave::functions
