// Which sites mask with which, and which sites hold shares of a site's secrets.
//
// Sites stand on a ring in random order, and the neighbours of a site are the nearest ones on either side
// (Bell et al., "Secure Single-Server Aggregation with (Poly)Logarithmic Overhead", CCS 2020, section 3.3):
// the nearest `masking` for masks, the nearest `sharing` for shares.
//
// Up to kMostSharingWithAll sites, every site holds shares of every other site's secrets, and `least` shares
// reconstruct a secret, as in Bonawitz et al., "Practical Secure Aggregation for Privacy-Preserving Machine
// Learning", CCS 2017. Fewer neighbours are enough for masks. Masks hide everything but the sum over a
// connected part of the honest survivors. A ring whose sites reach r to each side stays connected whichever
// 2r - 1 sites are taken out. Three kinds are: those that dropped out, the colluding ones, and honest
// survivors between which a mask is missing, because the coordinator held back the shares of one from the
// other. Of two such sites neither consents: one misses the shares, the other one the Receipt (messages.h).
// As `least` survivors must consent, the first and the last kind are n - least at most. So with n - least +
// colluding + 1 masking neighbours the only sum without a mask is the one over all honest survivors: the
// rest of the ring is connected; and a group of the last kind alone would have all its neighbours among those
// taken out, which are too few. This is what n - 1 masking neighbours would give, whoever chooses which sites
// drop out and which shares arrive.
//
// Above kMostSharingWithAll sites, the numbers follow from tails of the hypergeometric distribution, because
// the order is random. With probability 1 - 2^-20, every site has `threshold` holders of its shares left
// after n - least random sites dropped out. With probability 1 - 2^-100, no site has so many colluding
// neighbours, 2 * threshold - shares, that both of its secrets could be reconstructed; and the honest
// survivors are connected, if the dropouts do not depend on the order. A coordinator that chooses which sites
// drop out, whose shares arrive, and who is told of which survivors, can cut the ring into parts, because a
// site asks for the consent of its neighbours only. It then learns the sums over the parts, each of at least
// `threshold` sites less the colluding neighbours. If no smaller number of neighbours meets these bounds, all
// sites share with all.
//
// These probabilities are for one random order. The order is derived from the roster's digest
// (round_context.cpp), and the coordinator knows all other keys before a colluding site has to choose its
// own. Colluding sites can try many rosters, and with them many orders; 2^100 are too many.
#pragma once

#include "federated/secure_aggregation/agreement.h"

namespace conclave::secure_aggregation {

struct Degrees {
  std::size_t masking = 0;    ///< neighbours with which a site has a mask
  std::size_t sharing = 0;    ///< neighbours that hold a share of its secrets, as does the site itself
  std::size_t threshold = 0;  ///< shares that reconstruct a secret
};

/// For an agreement of which `sites` sites are still there. Throws Error if these are fewer than its `least`,
/// or more than it has.
Degrees choose_degrees(const Agreement& agreement, std::size_t sites);

class NeighbourGraph {
 public:
  NeighbourGraph() = default;
  /// `sites`: numbers, rising. `seed`: public; determines the order. Whoever completes the roster can try
  /// many.
  NeighbourGraph(std::span<const std::uint32_t> sites, const Degrees& degrees, const Key& seed);

  const Degrees& degrees() const { return degrees_; }
  /// By rising number, without `site`. The masking neighbours are among the sharing neighbours.
  std::vector<std::uint32_t> masking(std::uint32_t site) const { return nearest(site, degrees_.masking); }
  std::vector<std::uint32_t> sharing(std::uint32_t site) const { return nearest(site, degrees_.sharing); }

 private:
  std::vector<std::uint32_t> nearest(std::uint32_t site, std::size_t degree) const;

  Degrees degrees_;
  std::vector<std::uint32_t> ring_;   // site numbers, in the order of the ring
  std::vector<std::uint32_t> place_;  // by site number: the site's index in ring_
};

}  // namespace conclave::secure_aggregation
