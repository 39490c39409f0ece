// What a site's training has changed, as it goes to the coordinator.
#pragma once

#include <span>
#include <string>

#include "federated/global_model.h"
#include "parallel/process_grid.h"

namespace conclave {

/// Rank 0 writes, as f32 in the layout's order, what this site's `entries` have more than the checkpoint
/// `base`. Collective. Throws Error where a tensor of the layout is missing, or the update is not finite.
void write_update(std::span<const TensorEntry> entries, const CheckpointReader& base, const ProcessGrid& grid,
                  const std::string& path);

}  // namespace conclave
