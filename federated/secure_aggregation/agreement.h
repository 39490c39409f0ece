// What sites and coordinator agree on before a round of secure aggregation begins. Its digest is part of
// every message and every derived key, directly or through the roster. So messages of another federation,
// round or setting are refused.
#pragma once

#include "federated/secure_aggregation/keys.h"
#include "federated/secure_aggregation/ring.h"

namespace conclave::secure_aggregation {

struct Agreement {
  std::string federation;
  /// Never used twice, so that messages of two exchanges cannot be mixed. Whether a vector may be summed
  /// again under another number: see site.h.
  std::uint64_t round = 0;
  std::vector<std::string> sites;  ///< names in the federation; a site's number is its index here
  std::uint32_t least = 0;         ///< fewest sites whose sum may be revealed
  std::uint32_t colluding = 0;     ///< most sites that may share all they know with the coordinator
  Ring ring;
  std::uint64_t length = 0;  ///< of the vectors, in words
  /// Describes how the vectors are made from the updates. If a coordinator could tell one site of a much
  /// smaller scale than another, that site's numbers would vanish in the sum, which would then reveal the
  /// other site's update.
  std::string values = {};

  /// `least` is two thirds of the sites, rounded up. `colluding` is as many as that allows if every site
  /// holds a share of every secret (2 * least - sites - 1); above kMostSharingWithAll sites it is a twentieth
  /// of them.
  static Agreement among(std::string federation, std::uint64_t round, std::vector<std::string> sites,
                         Ring ring, std::uint64_t length);

  /// Throws Error unless there are at least 3 sites, with different names, (sites + colluding) / 2 < least <=
  /// sites, and `length` is from 1 to 2^40.
  void check() const;
  Key digest() const;
};

inline constexpr std::size_t kMostSharingWithAll = 128;

/// Most sites of a federation: the terms of an attempt have a certificate of each, in one message.
inline constexpr std::size_t kMostSites = 4'000;

}  // namespace conclave::secure_aggregation
