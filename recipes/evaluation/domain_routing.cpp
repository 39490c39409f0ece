#include "recipes/evaluation/domain_routing.h"

#include <fmt/format.h>

#include <algorithm>

namespace conclave {
namespace {

double share(Index part, Index whole) {
  return whole > 0 ? static_cast<double>(part) / static_cast<double>(whole) : 0;
}

}  // namespace

double DomainRouting::domain_share(std::size_t expert) const { return share(domain[expert], domain_tokens); }

double DomainRouting::other_share(std::size_t expert) const { return share(other[expert], other_tokens); }

double DomainRouting::ratio(std::size_t expert) const {
  const double others = share(std::max<Index>(other[expert], 1), other_tokens);
  return others > 0 ? domain_share(expert) / others : 0;
}

std::size_t DomainRouting::most_specialised() const {
  std::size_t best = 0;
  for (std::size_t e = 1; e < domain.size(); ++e)
    if (ratio(e) > ratio(best)) best = e;
  return best;
}

std::size_t DomainRouting::expert(Index wanted) const {
  return wanted < 0 ? most_specialised() : static_cast<std::size_t>(wanted);
}

double mean_ratio(const std::vector<DomainRouting>& layers, Index wanted) {
  double sum = 0;
  for (const DomainRouting& layer : layers) sum += layer.ratio(layer.expert(wanted));
  return layers.empty() ? 0 : sum / static_cast<double>(layers.size());
}

std::string describe_domain(const DomainRouting& layer, const std::string& domain, Index wanted) {
  const std::size_t expert = layer.expert(wanted);
  return fmt::format(
      "domain {}: expert {} receives it x{:.2f} more often than others ({:.1f}% of its tokens, {:.1f}% of "
      "others')",
      domain, expert, layer.ratio(expert), 100 * layer.domain_share(expert), 100 * layer.other_share(expert));
}

}  // namespace conclave
