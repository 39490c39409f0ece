// Rank r of the world is rank r % expert_parallel of its expert group and rank r / expert_parallel of its
// data group.
#include "parallel/process_grid.h"

#include <utility>

namespace conclave {

ProcessGrid::ProcessGrid(std::unique_ptr<Communicator> world, int expert_parallel)
    : world_(std::move(world)) {
  const int ranks = world_->size();
  if (expert_parallel == 0) expert_parallel = ranks;
  require(
      expert_parallel > 0 && ranks % expert_parallel == 0,
      "process grid: expert_parallel = {} does not divide the {} ranks of this run; start a multiple of it, "
      "or set expert_parallel to 0 (all ranks) or to a divisor of {}",
      expert_parallel, ranks, ranks);
  expert_group_ = world_->split(world_->rank() / expert_parallel);
  data_group_ = world_->split(world_->rank() % expert_parallel);
}

}  // namespace conclave
