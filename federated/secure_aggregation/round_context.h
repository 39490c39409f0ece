// What both sides of a round derive from its roster: the sites, the neighbours, and the contexts of keys.
#pragma once

#include "federated/secure_aggregation/agreement.h"
#include "federated/secure_aggregation/mask.h"
#include "federated/secure_aggregation/messages.h"
#include "federated/secure_aggregation/neighbours.h"

namespace conclave::secure_aggregation {

class RoundContext {
 public:
  /// Throws Error unless the roster belongs to the agreement and has at least `least` of the agreement's
  /// sites, and no others. The caller must check the signatures.
  RoundContext(const Agreement& agreement, Roster roster);

  const Key& digest() const { return digest_; }
  const NeighbourGraph& graph() const { return graph_; }
  const std::vector<std::uint32_t>& sites() const { return sites_; }
  bool has(std::uint32_t site) const { return std::ranges::binary_search(sites_, site); }
  /// The keys of a site in the roster.
  const Advertisement& keys(std::uint32_t site) const;

  /// The sites that hold shares of a site's secrets, by rising number: its sharing neighbours and itself. The
  /// first one has the share at place 1, the second one that at place 2, and so on.
  std::vector<std::uint32_t> holders(std::uint32_t owner) const;

  /// A pair's mask as `self` adds it: the site with the lower number adds the stream, the other one subtracts
  /// it.
  Mask pair_mask(const Secret& masking_key, std::uint32_t self, std::uint32_t other) const;
  /// A site's own mask, which it shares with no other site.
  Mask own_mask(const Secret& seed, std::uint32_t site) const;
  /// A commitment to the seed, by which the coordinator recognizes it.
  Key commitment(const Secret& seed, std::uint32_t site) const;
  /// The key of the shares that `from` encrypts for `to`, one of which is `self`; used for one message.
  Secret share_key(const Secret& encryption_key, std::uint32_t self, std::uint32_t from,
                   std::uint32_t to) const;

  /// A commitment to the share of one of the owner's secrets that is for `holder`. It hides the share, which
  /// is random.
  Key share_commitment(const Secret& share, bool of_masking_key, std::uint32_t owner,
                       std::uint32_t holder) const;
  /// The token of the Receipt from `from` to `to`, one of which is `self`.
  Key receipt(const Secret& encryption_key, std::uint32_t self, std::uint32_t from, std::uint32_t to) const;

  /// Throws Error if a message has another context, or if its sender is not in the roster.
  void check(const Key& context, std::uint32_t sender) const;
  void check(const Key& context) const;

 private:
  /// Of two sites, one of which is `self`, for messages from one to the other.
  Secret key_between(const Secret& encryption_key, std::uint32_t self, std::uint32_t from, std::uint32_t to,
                     std::string_view use) const;
  Bytes label(std::string_view use, std::uint32_t first, std::uint32_t second) const;

  Roster roster_;
  Key digest_;
  std::vector<std::uint32_t> sites_;
  NeighbourGraph graph_;
};

}  // namespace conclave::secure_aggregation
