#include "core/kernels/integer_rows.h"

namespace conclave::kernels::integer_rows {

template void quantize<32>(const float*, Index, float, float, QuantLevels, std::uint8_t*);
template std::pair<float, float> range<32>(const float*, Index);
template void real<32>(const Sums&, float, std::int32_t, Index, float*);

const Loops& loops() {
  static const Loops chosen = [] {
#ifdef CONCLAVE_WIDE_VECTORS
    if (has_wide_vectors()) return Loops{quantize<64>, range<64>, real<64>};
#endif
    return Loops{quantize<32>, range<32>, real<32>};
  }();
  return chosen;
}

}  // namespace conclave::kernels::integer_rows
