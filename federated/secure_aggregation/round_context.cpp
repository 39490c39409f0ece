#include "federated/secure_aggregation/round_context.h"

namespace conclave::secure_aggregation {

RoundContext::RoundContext(const Agreement& agreement, Roster roster)
    : roster_(std::move(roster)), digest_(roster_.digest()) {
  require(roster_.context == agreement.digest(),
          "secure aggregation: a roster of another federation, round or setting");
  for (const Advertisement& site : roster_.sites) {
    require(site.sender < agreement.sites.size(), "secure aggregation: site {} in a roster of {}",
            site.sender, agreement.sites.size());
    require(sites_.empty() || sites_.back() < site.sender, "secure aggregation: a roster that does not rise");
    sites_.push_back(site.sender);
  }
  graph_ = NeighbourGraph(sites_, choose_degrees(agreement, sites_.size()), digest_);
}

const Advertisement& RoundContext::keys(std::uint32_t site) const {
  return *std::ranges::lower_bound(roster_.sites, site, {}, &Advertisement::sender);
}

std::vector<std::uint32_t> RoundContext::holders(std::uint32_t owner) const {
  std::vector<std::uint32_t> result = graph_.sharing(owner);
  result.insert(std::ranges::lower_bound(result, owner), owner);
  return result;
}

Bytes RoundContext::label(std::string_view use, std::uint32_t first, std::uint32_t second) const {
  WireWriter out;
  out.text(use).raw(digest_).u32(first).u32(second);
  return out.take();
}

Mask RoundContext::pair_mask(const Secret& masking_key, std::uint32_t self, std::uint32_t other) const {
  const Secret shared = agree(masking_key, keys(other).masking_key);
  return {derive(shared, label("mask of a pair", std::min(self, other), std::max(self, other))),
          self > other};
}

Mask RoundContext::own_mask(const Secret& seed, std::uint32_t site) const {
  return {derive(seed, label("mask of a site", site, site)), false};
}

Key RoundContext::commitment(const Secret& seed, std::uint32_t site) const {
  return derive(seed, label("commitment", site, site)).bytes();
}

Secret RoundContext::key_between(const Secret& encryption_key, std::uint32_t self, std::uint32_t from,
                                 std::uint32_t to, std::string_view use) const {
  const Secret shared = agree(encryption_key, keys(self == from ? to : from).encryption_key);
  return derive(shared, label(use, from, to));
}

Secret RoundContext::share_key(const Secret& encryption_key, std::uint32_t self, std::uint32_t from,
                               std::uint32_t to) const {
  return key_between(encryption_key, self, from, to, "shares");
}

Key RoundContext::share_commitment(const Secret& share, bool of_masking_key, std::uint32_t owner,
                                   std::uint32_t holder) const {
  const Bytes what = label(of_masking_key ? "share of a masking key" : "share of a seed", owner, holder);
  return sha256({what, share.bytes()});
}

Key RoundContext::receipt(const Secret& encryption_key, std::uint32_t self, std::uint32_t from,
                          std::uint32_t to) const {
  return key_between(encryption_key, self, from, to, "receipt").bytes();
}

void RoundContext::check(const Key& context) const {
  require(context == digest_, "secure aggregation: a message of another round, federation or roster");
}

void RoundContext::check(const Key& context, std::uint32_t sender) const {
  check(context);
  require(has(sender), "secure aggregation: a message of site {}, which is not in the roster", sender);
}

}  // namespace conclave::secure_aggregation
