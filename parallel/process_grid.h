// The world has expert_parallel x data_parallel ranks. Consecutive ranks divide a layer's experts among them
// (one expert-parallel group). Ranks that hold the same experts form a data-parallel group, which sums the
// gradients of these experts. Every rank reads its own part of every batch. All other parameters are
// replicated on every rank, and their gradients are summed over the world.
#pragma once

#include <memory>

#include "parallel/communicator.h"

namespace conclave {

class ProcessGrid {
 public:
  /// Throws Error unless `expert_parallel` divides the number of ranks; 0 means one expert-parallel group of
  /// all ranks.
  ProcessGrid(std::unique_ptr<Communicator> world, int expert_parallel);

  Device device() const { return world_->device(); }
  Communicator& world() const { return *world_; }
  Communicator& expert_group() const { return *expert_group_; }  ///< ranks among which experts are divided
  Communicator& data_group() const { return *data_group_; }      ///< ranks that hold the same experts
  int expert_parallel() const { return expert_group_->size(); }
  int data_parallel() const { return data_group_->size(); }

 private:
  std::unique_ptr<Communicator> world_, expert_group_, data_group_;
};

}  // namespace conclave
