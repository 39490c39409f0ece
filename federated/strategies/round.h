// A round's aggregation from files: block by block, in a memory that does not grow with model or sites.
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
  double weight = 1;                ///< examples it was trained on
  double staleness = 0;             ///< rounds since the site was sent its model
  std::vector<double> tokens = {};  ///< [policy.experts()] served by each; under secure aggregation, by all
  /// Elements from `offset` on of the change of the exchanged vector, into all of `out`. Called by several
  /// threads, one at a time for each update; throws Error where they cannot be read.
  std::function<void(std::size_t offset, std::span<float> out)> read;
};

struct RoundLimits {
  std::size_t sites = 0;          ///< that took part (RoundUpdates::sites)
  double rate = 1;                ///< RoundUpdates::rate
  std::size_t memory = 32 << 20;  ///< bytes of blocks of all updates together
};

/// RoundLimits::rate of round number `round`, from 0, of `rounds`: 1 at first, and above 0 to the end.
double rate_of_round(Schedule::Kind kind, std::int64_t round, std::int64_t rounds);

/// global [strategy.vectors() * policy.exchanged_elements()] by `updates` of the same length. Throws Error,
/// and has then changed nothing, where an update's numbers are impossible or, for a strategy that
/// needs_norms(), values are not finite (others take it that this was seen as they came); where an update
/// cannot be read later, `global` and the strategy's state() are those of neither round, and to be loaded
/// anew.
void aggregate_round(Strategy& strategy, const SharingPolicy& policy, std::span<const SiteUpdate> updates,
                     std::span<float> global, const RoundLimits& limits = {});

}  // namespace conclave
