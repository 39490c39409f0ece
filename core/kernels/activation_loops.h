// Activations over arrays, in vectors of 32 bytes or, on processors with AVX-512, of 64 bytes. An element's
// bits are the same either way.
#pragma once

#include "core/kernels/activated.h"

namespace conclave::kernels::activation_loops {

/// activate() in vectors of kBytes.
template <class T, int kBytes>
void run(T* values, Index count, Activation activation, T* derivative) {
  for_activation(activation, [&]<Activation kActivation>() {
    if (derivative) {
#pragma omp simd
      for (Index i = 0; i < count; ++i) values[i] = activated<kActivation>(values[i], derivative[i]);
    } else {
#pragma omp simd
      for (Index i = 0; i < count; ++i) {
        T unused;
        values[i] = activated<kActivation>(values[i], unused);
      }
    }
  });
}

extern template void run<float, 32>(float*, Index, Activation, float*);
extern template void run<double, 32>(double*, Index, Activation, double*);
extern template void run<float, 64>(float*, Index, Activation, float*);

}  // namespace conclave::kernels::activation_loops
