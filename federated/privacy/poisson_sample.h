// The units that take part in a step: each does so with the same probability, independently of the others.
// Sampling adds to privacy only if nobody outside knows which units were drawn, so the randomness comes from
// the source that keys come from.
#pragma once

#include <cstdint>
#include <vector>

#include "federated/random_source.h"

namespace conclave {

/// Replaces `drawn` by those of first, first + stride, ... below `end` that take part, each with probability
/// `rate` in [0, 1] (or up to 2^-64 less). Throws Error for other rates.
void poisson_sample(RandomBits& bits, double rate, std::int64_t first, std::int64_t end, std::int64_t stride,
                    std::vector<std::int64_t>& drawn);

}  // namespace conclave
