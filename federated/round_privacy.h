// What the sums of a federation's rounds are to tell nobody of, by noise that its sites share
// (secure_aggregation/shared_noise.h).
#pragma once

#include <cstdint>
#include <string_view>

#include "core/error.h"
#include "federated/privacy/accountant.h"

namespace conclave {

struct RoundPrivacy {
  enum class Unit : std::uint8_t {
    none,
    site,    ///< all that a site's update says; not that it takes part, for by how many sites the sum is
             ///< divided, has no noise, and is taken to be public
    record,  ///< whether a site has a record: a round is one step of DP-SGD over all sites' records
    client,  ///< whether a person is among a site's, with all that is theirs: likewise over all sites'
             ///< clients
  };
  Unit unit = Unit::none;
  double clip_norm = 1;  ///< the largest norm of a unit's part in the sum of updates
  double rate = 1;       ///< record, client: the probability with which each takes part in a round, by itself
  double noise_multiplier = 0;  ///< of the whole noise's deviation, over clip_norm
  double delta = 1e-5;

  bool is_on() const { return unit != Unit::none; }
  /// Whether a round is a step, of units that are drawn within the sites.
  bool is_within_sites() const { return unit == Unit::record || unit == Unit::client; }
  /// What a round spends, whatever sites drop out.
  PrivacyEvent event() const { return {noise_multiplier, rate, 1}; }
  /// What so many rounds spend.
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
/// Throws Error where it is none.
inline RoundPrivacy::Unit parse_privacy_unit(std::string_view text) {
  using Unit = RoundPrivacy::Unit;
  for (const Unit unit : {Unit::none, Unit::site, Unit::record, Unit::client})
    if (to_string(unit) == text) return unit;
  fail("no unit of privacy is named '{}'; there are none, site, record, client", text);
}

}  // namespace conclave
