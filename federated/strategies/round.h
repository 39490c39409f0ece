// Aggregation of a round from files, block by block. The memory does not grow with the model or the number of
// sites.
#pragma once

#include <cstddef>
#include <functional>
#include <span>
#include <vector>

#include "core/schedule.h"
#include "federated/policy.h"
#include "federated/strategies/strategy.h"

namespace conclave {

struct SiteUpdate {
  double weight = 1;                ///< examples that the update was trained on
  double staleness = 0;             ///< rounds since the site was sent its model
  std::vector<double> tokens = {};  ///< [policy.experts()] that each expert served
  /// Reads the elements from `offset` on of the change of the exchanged vector; fills all of `out`. Called by
  /// several threads, but for each update by one at a time. Throws Error if the elements cannot be read.
  std::function<void(std::size_t offset, std::span<float> out)> read;
};

struct RoundLimits {
  std::size_t sites = 0;              ///< that took part (RoundUpdates::sites)
  double rate = 1;                    ///< RoundUpdates::rate
  std::size_t memory = 32 << 20;      ///< bytes for the blocks of all updates together
  std::function<void()> passed = {};  ///< called after each block: may give back the vectors' memory
};

/// RoundLimits::rate in round number `round`, from 0, of `rounds`: 1 at first, and above 0 to the end.
double rate_of_round(Schedule::Kind kind, std::int64_t round, std::int64_t rounds);

/// Changes global, strategy.vectors() vectors of policy.model_elements(), by `updates`, as many vectors of
/// policy.exchanged_elements(): what is not shared stays as it is. Throws Error, and has changed nothing, if
/// an update's numbers are impossible or, for a strategy that needs_norms(), if values are not finite (for
/// other strategies this must have been checked when the updates arrived). If an update cannot be read later,
/// throws Error and leaves `global` and the strategy's state() changed in part: both must be loaded again.
void aggregate_round(Strategy& strategy, const SharingPolicy& policy, std::span<const SiteUpdate> updates,
                     std::span<float> global, const RoundLimits& limits = {});

}  // namespace conclave
