// The terms that a site agrees to when it begins. If the coordinator changed any of them later, the site's
// checks, and its promises to the owners of the data, would no longer hold.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <vector>

#include "federated/transport/site.h"

namespace conclave {

struct AgreedTerms {
  bool secure = false;  ///< as the members of SiteRound with these names
  double most_examples = 0;
  bool asynchronous = false;
  std::int64_t rounds = 0;
  std::int64_t steps = 0;  ///< of training in a round
  SiteRules rules = {};
  RoundPrivacy privacy = {};
  std::vector<SharingRule> sharing = {};

  bool operator==(const AgreedTerms&) const = default;
};

AgreedTerms agreed_terms(const SiteRound& round);

/// With a key for each term, as sites store them beside an update.
void to_json(nlohmann::json& json, const AgreedTerms& terms);
/// Throws Error or nlohmann's exceptions if that is not what to_json() wrote.
void from_json(const nlohmann::json& json, AgreedTerms& terms);

}  // namespace conclave
