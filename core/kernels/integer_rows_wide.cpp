// Compiled for AVX-512, like activation_wide.cpp.
#ifdef CONCLAVE_WIDE_VECTORS

#include "core/kernels/integer_rows.h"

namespace conclave::kernels::integer_rows {

template void quantize<64>(const float*, Index, float, float, QuantLevels, std::uint8_t*);
template std::pair<float, float> range<64>(const float*, Index);
template void real<64>(const Sums&, float, std::int32_t, Index, float*);

}  // namespace conclave::kernels::integer_rows

#endif
