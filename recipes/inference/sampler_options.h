// How images are generated.
#pragma once

#include <cstdint>

namespace conclave {

struct SamplerOptions {
  std::int64_t steps = 12;  ///< of the midpoint method, each of which computes two velocities
  /// Weight of the text's effect on the velocity (classifier-free guidance): 1 follows the model, more
  /// exaggerates the text, 0 ignores it.
  double guidance = 3.0;
  std::uint64_t seed = 1;
};

}  // namespace conclave
