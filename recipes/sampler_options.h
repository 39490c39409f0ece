// How images are drawn.
#pragma once

#include <cstdint>

namespace conclave {

struct SamplerOptions {
  std::int64_t steps = 12;  ///< of the midpoint method, which asks for two velocities in each
  /// How far what a text adds to the velocity is exaggerated: 1 follows the model, 0 leaves the text out.
  double guidance = 3.0;
  std::uint64_t seed = 1;
};

}  // namespace conclave
