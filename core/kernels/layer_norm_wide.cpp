// Compiled for AVX-512, like activation_wide.cpp.
#ifdef CONCLAVE_WIDE_VECTORS

#include "core/kernels/layer_norm_rows.h"

namespace conclave::kernels::layer_norm_rows {

template void forward<float, 64>(const Row<float>&, double, float*, float&, float&);
template void backward<float, 64>(const Row<float>&, const RowGradients<float>&);

}  // namespace conclave::kernels::layer_norm_rows

#endif
