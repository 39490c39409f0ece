// For AVX-512, as tile_wide.cpp is; of f64, whose exp is the standard library's, there would be nothing to
// gain.
#ifdef CONCLAVE_WIDE_VECTORS

#include "core/kernels/activation_loops.h"

namespace conclave::kernels::activation_loops {

template void run<float, 64>(float*, Index, Activation, float*);

}  // namespace conclave::kernels::activation_loops

#endif
