// Who takes part in a step, where each does so with the same probability, whoever else does. That nobody
// outside knows who did is what sampling adds to privacy, so it comes from where keys do.
#pragma once

#include <cstdint>
#include <vector>

#include "federated/random_source.h"

namespace conclave {

/// Those of first, first + stride, ... below `end` that take part, each with probability `rate` in [0, 1] (to
/// 2^-64 below it), in place of what `drawn` had. Throws Error at other rates.
void poisson_sample(RandomBits& bits, double rate, std::int64_t first, std::int64_t end, std::int64_t stride,
                    std::vector<std::int64_t>& drawn);

}  // namespace conclave
