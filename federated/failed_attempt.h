// What the coordinator does after an attempt at a secure sum has failed: which sites it leaves out of the
// next one, and whether it waits first. Nothing here knows of threads or clocks.
//
// A site that shares keys and is gone before the end costs the others privacy: from phase `mask` on they have
// sent their updates. After kMostAbsences such attempts it is left out if a sum does not need it; of several,
// those that were gone most often. When a member is gone instead, sites that were left out get nearer to
// their seats again. If more than half were gone, that was an outage, of the coordinator's connection, say,
// and no site is blamed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <set>
#include <string>

#include "federated/random_source.h"

namespace conclave {

inline constexpr int kMostAbsences = 2;

enum class AttemptPhase : std::uint8_t { advertise, share, mask, consent, unmask, done };

using SiteNames = std::set<std::string>;
/// By site: how often it was gone when an attempt failed.
using Absences = std::map<std::string, int>;

/// An attempt of which sites were told.
struct FailedAttempt {
  AttemptPhase phase;     ///< that could not end, or `done`: the sum could not be unmasked
  SiteNames sites = {};   ///< that took part
  SiteNames absent = {};  ///< those of them that shared keys and were gone in `phase` or before
  bool disputed = false;  ///< sites disagree on shares, or cheated (disputes.h): then no absence is to blame
};

struct AfterFailure {
  Absences absences = {};
  /// Sites that were absent too often, and without which the next attempt would have fewer than `least`.
  SiteNames needed = {};
  bool outage = false;  ///< more than half were gone
  /// Whether to wait, because the next attempt would probably fail in the same way, and spend as much again.
  bool wait = false;
};

/// `absences`: before this attempt. `least`: fewest sites of a sum.
AfterFailure after_failure(const FailedAttempt& attempt, Absences absences, std::size_t least);

/// Those of `members` that are left out because they were absent too often, so that `least` stay: the most
/// absences first, of equals at random.
SiteNames left_out_as_absent(const SiteNames& members, const Absences& absences, std::size_t least,
                             RandomBits& random);

}  // namespace conclave
