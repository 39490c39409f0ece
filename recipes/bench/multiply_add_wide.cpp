// Compiled for AVX-512; called only if the processor supports it.
#include "recipes/bench/multiply_add.h"

namespace conclave::bench {

template float multiply_add<64>(float factor, float addend);

}  // namespace conclave::bench
