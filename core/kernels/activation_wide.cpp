// Compiled for AVX-512, like tile_wide.cpp. Only for f32: f64 calls exp of the standard library, and would
// gain nothing.
#ifdef CONCLAVE_WIDE_VECTORS

#include "core/kernels/activation_loops.h"

namespace conclave::kernels::activation_loops {

template void run<float, 64>(float*, Index, Activation, float*);

}  // namespace conclave::kernels::activation_loops

#endif
