// An activation's value and derivative, selected at compile time, for CPU and CUDA kernels.
#pragma once

#include "core/kernels/matmul.h"
#include "core/kernels/vector_math.h"

namespace conclave::kernels {

template <Activation kActivation, class T>
CONCLAVE_HOST_DEVICE inline T activated(T x, T& derivative) {
  if constexpr (kActivation == Activation::relu) return relu(x, derivative);
  if constexpr (kActivation == Activation::gelu) return gelu(x, derivative);
  if constexpr (kActivation == Activation::silu) return silu(x, derivative);
  if constexpr (kActivation == Activation::hard_swish) return hard_swish(x, derivative);
  if constexpr (kActivation == Activation::hard_sigmoid) return hard_sigmoid(x, derivative);
  derivative = T(1);
  return x;
}

/// Calls body.operator()<kActivation>() for this activation.
template <class Body>
void for_activation(Activation activation, Body body) {
  switch (activation) {
    case Activation::none:
      return body.template operator()<Activation::none>();
    case Activation::relu:
      return body.template operator()<Activation::relu>();
    case Activation::gelu:
      return body.template operator()<Activation::gelu>();
    case Activation::silu:
      return body.template operator()<Activation::silu>();
    case Activation::hard_swish:
      return body.template operator()<Activation::hard_swish>();
    case Activation::hard_sigmoid:
      return body.template operator()<Activation::hard_sigmoid>();
  }
}

}  // namespace conclave::kernels
