// Measures whether a domain's texts reach its expert: how often tokens of these texts reach each expert of a
// layer, against how often all other tokens do.
#pragma once

#include <string>
#include <vector>

#include "core/tensor.h"

namespace conclave {

struct DomainRouting {
  Index domain_tokens = 0, other_tokens = 0;  ///< tokens that came to the router
  std::vector<Index> domain, other;           ///< [experts]: those of these tokens that the expert received

  /// P(expert | token of the domain) and P(expert | other token); 0 where there is no such token.
  double domain_share(std::size_t expert) const;
  double other_share(std::size_t expert) const;
  /// domain_share / other_share; an expert that no other token reached counts as reached by one.
  double ratio(std::size_t expert) const;
  /// The expert with the highest ratio.
  std::size_t most_specialised() const;
  /// `wanted`, or most_specialised() where that is -1.
  std::size_t expert(Index wanted) const;
};

/// The mean over the layers of the ratio of their expert(wanted).
double mean_ratio(const std::vector<DomainRouting>& layers, Index wanted);

/// "domain medicine, anatomy: expert 0 receives it x4.20 more often than others (91.3% of its tokens, 21.7%
/// of others')".
std::string describe_domain(const DomainRouting& layer, const std::string& domain, Index wanted);

}  // namespace conclave
