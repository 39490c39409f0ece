#include "federated/privacy/poisson_sample.h"

#include <cmath>

#include "core/error.h"

namespace conclave {

void poisson_sample(RandomBits& bits, double rate, std::int64_t first, std::int64_t end, std::int64_t stride,
                    std::vector<std::int64_t>& drawn) {
  require(rate >= 0 && rate <= 1 && stride >= 1, "poisson sample: a rate of {}, in strides of {}", rate,
          stride);
  drawn.clear();
  const auto below = rate < 1 ? static_cast<std::uint64_t>(std::ldexp(rate, 64)) : 0;
  for (std::int64_t i = first; i < end; i += stride)
    if (rate == 1 || bits.next() < below) drawn.push_back(i);
}

}  // namespace conclave
