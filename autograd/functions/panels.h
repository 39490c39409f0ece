// For functions with weights that inference packs once.
#pragma once

#include "autograd/functions/functions.h"

namespace conclave::functions {

/// The packed form (kernels::pack_weight()) of a parameter [groups, out, in] for inference. The first pass
/// that does not record makes it; later passes reuse it. Undefined for any other weight, and on a device.
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
