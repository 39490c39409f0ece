// What both sides of a round derive from its roster: who is there, who is whose neighbour, and the keys'
// contexts.
#pragma once

#include "federated/secure_aggregation/agreement.h"
#include "federated/secure_aggregation/mask.h"
#include "federated/secure_aggregation/messages.h"
#include "federated/secure_aggregation/neighbours.h"

namespace conclave::secure_aggregation {

class RoundContext {
 public:
  /// Throws Error unless the roster is of the agreement and of sites that it has, at least `least` of them.
  /// Signatures are the caller's to check.
  RoundContext(const Agreement& agreement, Roster roster);

  const Key& digest() const { return digest_; }
  const NeighbourGraph& graph() const { return graph_; }
  const std::vector<std::uint32_t>& sites() const { return sites_; }
  bool has(std::uint32_t site) const { return std::ranges::binary_search(sites_, site); }
  /// Of a site that is there.
  const Advertisement& keys(std::uint32_t site) const;

  /// Who holds shares of a site's secrets, by number: itself and its sharing neighbours. The first has the
  /// share at place 1.
  std::vector<std::uint32_t> holders(std::uint32_t owner) const;

  /// The mask of a pair as `self` adds it: the one of lower number adds the stream, the other subtracts it.
  Mask pair_mask(const Secret& masking_key, std::uint32_t self, std::uint32_t other) const;
  /// The mask of a site alone.
  Mask own_mask(const Secret& seed, std::uint32_t site) const;
  /// For the coordinator to recognize the seed by.
  Key commitment(const Secret& seed, std::uint32_t site) const;
  /// The key for the shares that `from` encrypts for `to`, one of whom is `self`; used for one message.
  Secret share_key(const Secret& encryption_key, std::uint32_t self, std::uint32_t from,
                   std::uint32_t to) const;

  /// Throws Error where a message has another context, or its sender is none of the sites.
  void check(const Key& context, std::uint32_t sender) const;
  void check(const Key& context) const;

 private:
  Bytes label(std::string_view use, std::uint32_t first, std::uint32_t second) const;

  Roster roster_;
  Key digest_;
  std::vector<std::uint32_t> sites_;
  NeighbourGraph graph_;
};

}  // namespace conclave::secure_aggregation
