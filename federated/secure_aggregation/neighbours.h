// Who masks with whom, and who holds shares of whose secrets.
//
// Sites stand on a ring in random order, and each is a neighbour of the nearest on either side (Bell et al.,
// "Secure Single-Server Aggregation with (Poly)Logarithmic Overhead", CCS 2020, section 3.3): of the nearest
// `masking` for masks, of the nearest `sharing` for shares.
//
// Among few sites (kMostSharingWithAll), everybody holds shares of everybody's secrets, `least` of which are
// needed, as in Bonawitz et al., "Practical Secure Aggregation for Privacy-Preserving Machine Learning",
// CCS 2017. Masks are still for fewer. What they protect is the sum over a connected part of the honest
// survivors; a ring whose sites reach r to each side stays connected whichever 2r - 1 are taken out, and no
// more are out than dropped and colluding ones, n - least + colluding. So with masking neighbours one more
// than that, the sum over all honest survivors is the only one without a mask: what n - 1 neighbours would
// give, whoever chooses who drops out.
//
// Among many, the numbers follow from binomial tails over the random order (hypergeometric ones, exactly):
// with probability 1 - 2^-20 every site has `threshold` neighbours left after n - least random sites dropped;
// with 1 - 2^-40 no site has so many colluding neighbours that both of its secrets could be had
// (2 * threshold - shares), and the honest survivors are connected, when the dropouts do not depend on the
// order. A coordinator that chooses who drops can cut the ring in two places: it then learns the sums over
// two parts, each of no fewer than `threshold` - colluding neighbours sites. Where no fewer neighbours would
// do, all share with all.
#pragma once

#include "federated/secure_aggregation/agreement.h"

namespace conclave::secure_aggregation {

struct Degrees {
  std::size_t masking = 0;    ///< neighbours with whom a site has a mask
  std::size_t sharing = 0;    ///< neighbours who hold a share of a site's secrets; itself holds one, too
  std::size_t threshold = 0;  ///< shares that give a secret back
};

/// For the `sites` of an agreement that are still there. Throws Error where they are fewer than its
/// least.
Degrees choose_degrees(const Agreement& agreement, std::size_t sites);

class NeighbourGraph {
 public:
  NeighbourGraph() = default;
  /// `sites`: numbers, rising. `seed`: public, and not in one's hand who could profit from an order.
  NeighbourGraph(std::span<const std::uint32_t> sites, const Degrees& degrees, const Key& seed);

  const Degrees& degrees() const { return degrees_; }
  /// By rising number, without `site`; the first is among the second.
  std::vector<std::uint32_t> masking(std::uint32_t site) const { return nearest(site, degrees_.masking); }
  std::vector<std::uint32_t> sharing(std::uint32_t site) const { return nearest(site, degrees_.sharing); }

 private:
  std::vector<std::uint32_t> nearest(std::uint32_t site, std::size_t degree) const;

  Degrees degrees_;
  std::vector<std::uint32_t> ring_;   // sites in order
  std::vector<std::uint32_t> place_;  // in it of each site, by number
};

}  // namespace conclave::secure_aggregation
