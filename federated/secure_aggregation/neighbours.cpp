#include "federated/secure_aggregation/neighbours.h"

#include <cmath>
#include <optional>

#include "federated/secure_aggregation/mask.h"

namespace conclave::secure_aggregation {
namespace {

double log_choose(double n, double k) {
  int sign;  // lgamma() would store it in a variable that all threads share
  return lgamma_r(n + 1, &sign) - lgamma_r(k + 1, &sign) - lgamma_r(n - k + 1, &sign);
}

// log2 of the probability that at least `least` of `drawn` sites, out of `all`, are among the `marked`.
double log2_tail(std::size_t all, std::size_t marked, std::size_t drawn, std::size_t least) {
  double sum = 0;
  for (std::size_t hits = least; hits <= std::min(marked, drawn); ++hits)
    if (drawn - hits <= all - marked)
      sum += std::exp(log_choose(static_cast<double>(marked), static_cast<double>(hits)) +
                      log_choose(static_cast<double>(all - marked), static_cast<double>(drawn - hits)) -
                      log_choose(static_cast<double>(all), static_cast<double>(drawn)));
  return std::log2(sum);
}

constexpr double kFailures = -20, kBreaks = -100;  // log2 of what may happen by chance

std::optional<Degrees> among_many(std::size_t sites, std::size_t dropped, std::size_t colluding) {
  const double log_sites = std::log2(static_cast<double>(sites));
  for (std::size_t degree = 2; degree + 1 < sites; degree += 2) {
    // To cut the ring, two runs of degree / 2 adjacent places must be taken out.
    const double cut = 2 * log_sites + log2_tail(sites, dropped + colluding, degree, degree);
    if (cut > kBreaks) continue;
    // The largest threshold that dropouts allow: a site fails if more than shares - threshold holders
    // dropped.
    const std::size_t shares = degree + 1;
    std::size_t threshold = shares / 2 + 1;
    if (log_sites + log2_tail(sites - 1, dropped, degree, shares - threshold + 1) > kFailures) continue;
    while (threshold < shares &&
           log_sites + log2_tail(sites - 1, dropped, degree, shares - threshold) <= kFailures)
      ++threshold;
    if (log_sites + log2_tail(sites - 1, colluding, degree, 2 * threshold - shares) <= kBreaks)
      return Degrees{degree, degree, threshold};
  }
  return {};
}

}  // namespace

Degrees choose_degrees(const Agreement& agreement, std::size_t sites) {
  require(sites >= agreement.least && sites <= agreement.sites.size(),
          "secure aggregation: {} of {} sites are there, and at least {} are needed", sites,
          agreement.sites.size(), agreement.least);
  const std::size_t dropped = sites - agreement.least;
  if (sites > kMostSharingWithAll)
    if (const auto degrees = among_many(sites, dropped, agreement.colluding)) return *degrees;
  return {std::min(sites - 1, dropped + agreement.colluding + 1), sites - 1, agreement.least};
}

NeighbourGraph::NeighbourGraph(std::span<const std::uint32_t> sites, const Degrees& degrees, const Key& seed)
    : degrees_(degrees), ring_(sites.begin(), sites.end()), place_(sites.empty() ? 0 : sites.back() + 1) {
  SeededRandom source{Secret(seed)};
  RandomBits random(source);
  for (std::size_t i = ring_.size(); i > 1; --i) std::swap(ring_[i - 1], ring_[random.below(i)]);
  for (std::uint32_t at = 0; at < ring_.size(); ++at) place_[ring_[at]] = at;
}

std::vector<std::uint32_t> NeighbourGraph::nearest(std::uint32_t site, std::size_t degree) const {
  const std::size_t n = ring_.size(), all = n - 1;
  const std::size_t reach = (degree + 1) / 2;  // one more for an odd degree
  std::vector<std::uint32_t> result;
  for (std::size_t d = 1; d <= std::min(2 * reach, all); ++d)  // one after, one before, the second after, ...
    result.push_back(ring_[(place_[site] + (d % 2 == 1 ? (d + 1) / 2 : n - d / 2)) % n]);
  std::ranges::sort(result);
  return result;
}

}  // namespace conclave::secure_aggregation
