// Planning of memory for several passes of one model.
#pragma once

#include <functional>
#include <span>
#include <string>
#include <utility>

#include "parallel/communicator.h"
#include "parallel/moe/moe_layer.h"

namespace conclave {

/// Runs each of `passes`, which plan the memory that they need. All share the buffers of the layers'
/// dispatchers, which grow to the largest batch of any pass. A pass that was planned before a buffer grew
/// needs more memory than it showed, so passes are repeated until no buffer grows. Collective.
void plan_passes(std::span<const std::pair<std::string, MoeLayer*>> layers, Communicator& world,
                 std::span<const std::function<void()>> passes);

}  // namespace conclave
