// Does a domain go to its expert: how often tokens of the domain's texts reach each expert of a layer,
// against how often all others' do.
#pragma once

#include <string>
#include <vector>

#include "core/tensor.h"

namespace conclave {

struct DomainRouting {
  Index domain_tokens = 0, other_tokens = 0;  ///< that a router sent somewhere
  std::vector<Index> domain, other;           ///< [experts] of those, the ones that the expert received

  /// P(expert | token of the domain) and P(expert | other token); 0 where there is no such token.
  double domain_share(std::size_t expert) const;
  double other_share(std::size_t expert) const;
  /// The first over the second; an expert that no other token reached counts as reached by one.
  double ratio(std::size_t expert) const;
  /// The expert with the highest ratio.
  std::size_t most_specialised() const;
  /// `wanted`, or the above where that is -1.
  std::size_t expert(Index wanted) const;
};

/// Of the layers' experts(wanted), the mean ratio.
double mean_ratio(const std::vector<DomainRouting>& layers, Index wanted);

/// "domain medicine, anatomy: expert 0 receives it x4.20 more often than others (91.3% of its tokens, 21.7%
/// of others')".
std::string describe_domain(const DomainRouting& layer, const std::string& domain, Index wanted);

}  // namespace conclave
