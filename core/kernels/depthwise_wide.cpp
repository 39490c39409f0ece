// Compiled for AVX-512, like tile_wide.cpp.
#ifdef CONCLAVE_WIDE_VECTORS

#include "core/kernels/depthwise_lines.h"

namespace conclave::kernels::depthwise_lines {

template void run<float, 64>(const Line<float>&);
template void run<float, 64>(const Line<float, std::uint8_t>&);
template void run<double, 64>(const Line<double>&);
template void add_products<float, 64>(const ImageProducts<float>&, float*);
template void add_products<double, 64>(const ImageProducts<double>&, double*);

}  // namespace conclave::kernels::depthwise_lines

#endif
