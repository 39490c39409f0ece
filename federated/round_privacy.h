// The privacy guarantee for the sums of a federation's rounds. It rests on noise to which each site
// contributes a share (secure_aggregation/shared_noise.h).
#pragma once

#include <cstdint>
#include <string_view>

#include "core/error.h"
#include "federated/privacy/accountant.h"

namespace conclave {

struct RoundPrivacy {
  enum class Unit : std::uint8_t {
    none,
    site,  ///< a site's whole update against one of zeros, but not that the site takes part: the sum is
           ///< divided by the number of sites, which has no noise and is assumed to be public. Two other
           ///< updates may be 2 clip_norm apart; between them, epsilon is that of half the noise multiplier.
    record,  ///< one record of a site: a round is one step of DP-SGD over the records of all sites
    client,  ///< one person at a site, with all rows that belong to the person: a round is one step of DP-SGD
             ///< over the clients of all sites
  };
  Unit unit = Unit::none;
  double clip_norm = 1;  ///< largest norm of what one unit contributes to the sum of updates
  double rate = 1;       ///< record, client: probability that each takes part in a round, independently
  double noise_multiplier = 0;  ///< standard deviation of the total noise, divided by clip_norm
  double delta = 1e-5;

  bool operator==(const RoundPrivacy&) const = default;
  bool is_on() const { return unit != Unit::none; }
  /// Whether a round is a step of DP-SGD over units that are sampled within the sites.
  bool is_within_sites() const { return unit == Unit::record || unit == Unit::client; }
  /// What a round spends, whichever sites drop out.
  PrivacyEvent event() const { return {noise_multiplier, rate, 1}; }
  /// What that many rounds spend, at `delta`.
  double epsilon(std::int64_t rounds) const {
    return epsilon_of({noise_multiplier, rate, rounds}, delta, kAccountant);
  }
};

constexpr std::string_view to_string(RoundPrivacy::Unit unit) {
  switch (unit) {
    case RoundPrivacy::Unit::site:
      return "site";
    case RoundPrivacy::Unit::record:
      return "record";
    case RoundPrivacy::Unit::client:
      return "client";
    case RoundPrivacy::Unit::none:
      break;
  }
  return "none";
}
/// Throws Error if there is no such unit.
inline RoundPrivacy::Unit parse_privacy_unit(std::string_view text) {
  using Unit = RoundPrivacy::Unit;
  for (const Unit unit : {Unit::none, Unit::site, Unit::record, Unit::client})
    if (to_string(unit) == text) return unit;
  fail("no unit of privacy is named '{}'; there are none, site, record, client", text);
}

}  // namespace conclave
