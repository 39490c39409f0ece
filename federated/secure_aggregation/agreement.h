// What sites and coordinator know and agree on before a round of secure aggregation begins. Its digest is in
// every message and every key, so that what belongs to another federation, round or setting is refused.
#pragma once

#include "federated/secure_aggregation/keys.h"
#include "federated/secure_aggregation/ring.h"

namespace conclave::secure_aggregation {

struct Agreement {
  std::string federation;
  /// Never used twice: a site that sums the same update among others again tells by the difference.
  std::uint64_t round = 0;
  std::vector<std::string> sites;  ///< names in the federation; a site's number is its place here
  std::uint32_t least = 0;         ///< sites whose sum may be revealed, at least
  std::uint32_t colluding = 0;     ///< sites that may tell the coordinator all they know, at most
  Ring ring;
  std::uint64_t length = 0;  ///< of the vectors, in words
  /// How the vectors are made of updates. Who tells one site of numbers so much smaller than another's that
  /// they vanish beside it would see the other's in the sum.
  std::string values = {};

  /// At least two thirds of the sites; so many may collude as that allows where every site holds a share of
  /// every secret (2 * least - sites - 1), and above kMostSharingWithAll a twentieth.
  static Agreement among(std::string federation, std::uint64_t round, std::vector<std::string> sites,
                         Ring ring, std::uint64_t length);

  /// Throws Error unless there are at least 3 sites of different names, more than (sites + colluding) / 2 and
  /// no more than all of them as `least`, and a vector.
  void check() const;
  Key digest() const;
};

inline constexpr std::size_t kMostSharingWithAll = 128;

}  // namespace conclave::secure_aggregation
