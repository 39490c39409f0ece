#include "federated/secure_aggregation/coordinator.h"

#include <fmt/format.h>

#include <utility>

#include "federated/secure_aggregation/first_error.h"
#include "federated/secure_aggregation/secret_sharing.h"

namespace conclave::secure_aggregation {

Coordinator::Coordinator(Agreement agreement)
    : agreement_((agreement.check(), std::move(agreement))), sum_(agreement_.ring, agreement_.length) {
  for (std::uint32_t site = 0; site < agreement_.sites.size(); ++site) awaited_.insert(awaited_.end(), site);
}

void Coordinator::arrive(Phase phase, std::uint32_t sender) {
  require(sender < agreement_.sites.size(), "secure aggregation: a message of site {} of {}", sender,
          agreement_.sites.size());
  const std::string& name = agreement_.sites[sender];
  require(phase_ == phase, "secure aggregation: a message of site '{}' too early or too late", name);
  require(!arrived_.contains(sender),
          "secure aggregation: site '{}' sent its message of this phase a second time", name);
  require(awaited_.erase(sender) == 1, "secure aggregation: a message of site '{}', which dropped out before",
          name);
  arrived_.insert(sender);
}

void Coordinator::end_phase() {
  require(phase_ != Phase::done, "secure aggregation: the round has ended");
  require(!damaged_, "secure aggregation: a vector could not be read, and part of it is in the sum");
  // Before the count, as evidence of who has lied counts also if too few are left.
  if (phase_ == Phase::mask) {
    survivors_ = {round_->digest(), {arrived_.begin(), arrived_.end()}};
    check_receipts();
  }
  require(arrived_.size() >= agreement_.least, "secure aggregation: {} sites are left, and {} are needed",
          arrived_.size(), agreement_.least);
  if (phase_ == Phase::advertise) {
    roster_.context = agreement_.digest();
    for (auto& [site, keys] : advertisements_) roster_.sites.push_back(std::move(keys));
    round_.emplace(agreement_, roster_);
  } else if (phase_ == Phase::share) {
    sharers_ = arrived_;
  }
  phase_ = static_cast<Phase>(static_cast<int>(phase_) + 1);
  awaited_ = std::exchange(arrived_, {});
}

void Coordinator::receive(const Advertisement& message) {
  require(message.context == agreement_.digest(),
          "secure aggregation: keys for another federation, round or setting");
  // Tried with any secret: a key of low order agrees with none, and would make every other site refuse.
  for (const Key& key : {message.encryption_key, message.masking_key}) agree(Secret(message.context), key);
  arrive(Phase::advertise, message.sender);
  advertisements_[message.sender] = message;
}

void Coordinator::receive(const SharesUpload& message) {
  require(round_.has_value(), "secure aggregation: shares before there is a roster");
  round_->check(message.context, message.sender);
  require(
      std::ranges::equal(message.shares, round_->graph().sharing(message.sender), {}, &SealedShares::other),
      "secure aggregation: site '{}' has shares for others than its neighbours",
      agreement_.sites[message.sender]);
  arrive(Phase::share, message.sender);
  uploads_[message.sender] = message;
}

SharesDelivery Coordinator::delivery(std::uint32_t site) const {
  require(sharers_.contains(site), "secure aggregation: no shares are for site {}", site);
  SharesDelivery delivery{round_->digest(), {}};
  for (const std::uint32_t from : round_->graph().sharing(site)) {
    if (!sharers_.contains(from)) continue;
    SealedShares shares = *std::ranges::lower_bound(uploads_.at(from).shares, site, {}, &SealedShares::other);
    shares.other = from;
    delivery.shares.push_back(shares);
  }
  return delivery;
}

void Coordinator::arrive(const MaskedInput& head, std::size_t size) {
  require(round_.has_value(), "secure aggregation: a vector before there is a roster");
  round_->check(head.context, head.sender);
  require(size == sum_.bytes(), "secure aggregation: a vector of {} bytes of site '{}', expected {}", size,
          agreement_.sites[head.sender], sum_.bytes());
  const auto owners = round_->graph().sharing(head.sender);
  for (const auto* list : {&head.receipts, &head.expected})
    require(std::ranges::all_of(
                *list, [&](const Receipt& one) { return std::ranges::binary_search(owners, one.other); }),
            "secure aggregation: site '{}' has receipts for sites that are not its neighbours",
            agreement_.sites[head.sender]);
  arrive(Phase::mask, head.sender);
  receipts_[head.sender] = head.receipts;
  expected_[head.sender] = head.expected;
}

void Coordinator::receive(const MaskedInput& message) {
  arrive(message, message.packed.size());
  sum_.add(message.packed);
}

void Coordinator::add(const RingVector::ReadPacked& read) {
  const bool before = std::exchange(damaged_, true);
  sum_.add(read);
  damaged_ = before;
}

Survivors Coordinator::survivors(std::uint32_t site) const {
  require(round_.has_value() && round_->has(site), "secure aggregation: no survivors are for site {}", site);
  Survivors survivors = survivors_;
  for (const std::uint32_t other : round_->graph().sharing(site)) {
    if (!survived(other)) continue;
    if (const Key* const token = token_in(receipts_.at(other), site))
      survivors.receipts.push_back({other, *token});
  }
  return survivors;
}

// The signature is not checked here: sites check it, and do not rely on the coordinator.
void Coordinator::receive(const Consent& message) {
  require(round_.has_value(), "secure aggregation: a consent before there is a roster");
  round_->check(message.context, message.sender);
  arrive(Phase::consent, message.sender);
  consents_[message.sender] = message;
}

Consents Coordinator::consents(std::uint32_t site) const {
  require(round_.has_value() && round_->has(site), "secure aggregation: no consents are for site {}", site);
  Consents consents{round_->digest(), {}};
  for (const std::uint32_t other : round_->graph().sharing(site))
    if (const auto found = consents_.find(other); found != consents_.end())
      consents.sites.push_back(found->second);
  return consents;
}

void Coordinator::receive(const Unmasking& message) {
  require(round_.has_value(), "secure aggregation: shares to unmask with before there is a roster");
  round_->check(message.context, message.sender);
  std::vector<std::uint32_t> owners;
  for (const std::uint32_t owner : round_->holders(message.sender))
    if (sharers_.contains(owner)) owners.push_back(owner);
  require(std::ranges::equal(message.parts, owners, {}, &Unmasking::Part::owner) &&
              std::ranges::all_of(message.parts,
                                  [&](const auto& part) { return part.dropped != survived(part.owner); }),
          "secure aggregation: site '{}' has other shares to unmask with than those asked for",
          agreement_.sites[message.sender]);
  arrive(Phase::unmask, message.sender);
  for (const Unmasking::Part& part : message.parts)
    if (part.owner == message.sender || is_dealt(part, message.sender))
      shares_[part.owner][message.sender] = part.share;
    else
      cheaters_.insert(message.sender);
}

// Of an owner that has the share's holder among its neighbours, as receive() has checked.
bool Coordinator::is_dealt(const Unmasking::Part& part, std::uint32_t holder) const {
  const auto dealt =
      std::ranges::lower_bound(uploads_.at(part.owner).shares, holder, {}, &SealedShares::other);
  return dealt->commitments[part.dropped ? 1 : 0] ==
         round_->share_commitment(part.share, part.dropped, part.owner, holder);
}

bool Coordinator::has_receipt(std::uint32_t from, std::uint32_t owner) const {
  const Key* const receipt = token_in(receipts_.at(from), owner);
  if (!receipt || !survived(owner)) return receipt != nullptr;
  const Key* const expected = token_in(expected_.at(owner), from);
  return expected && *expected == sha256({*receipt});
}

std::size_t Coordinator::most_liars() const {
  if (!round_) return 1;
  const Degrees& degrees = round_->graph().degrees();
  return std::max<std::size_t>(
      std::min<std::size_t>(agreement_.colluding, 2 * degrees.threshold - (degrees.sharing + 1) - 1), 1);
}

// The two sites of a missing receipt would not consent, or could not unmask. One of them has sent shares that
// are none, or says so of good ones.
void Coordinator::check_receipts() {
  std::string pairs;
  for (const std::uint32_t site : survivors_.sites)
    for (const std::uint32_t from : round_->graph().sharing(site)) {
      if (!sharers_.contains(from) || has_receipt(site, from)) continue;
      disagreements_[from].insert(site);
      if (!disagreements_[site].insert(from).second || pairs.size() > 500) continue;
      pairs += fmt::format("{}'{}' and '{}'", pairs.empty() ? "" : ", ",
                           agreement_.sites[std::min(site, from)], agreement_.sites[std::max(site, from)]);
    }
  require(
      disagreements_.empty(),
      "secure aggregation: shares were sent that cannot be used, or that are said to be so, between sites {}",
      pairs);
}

bool Coordinator::is_secret_of(std::uint32_t owner, const Secret& secret) const {
  return survived(owner) ? round_->commitment(secret, owner) == uploads_.at(owner).commitment
                         : public_key(secret) == round_->keys(owner).masking_key;
}

Secret Coordinator::secret_of(std::uint32_t owner) {
  const std::size_t threshold = round_->graph().degrees().threshold;
  const std::vector<std::uint32_t> holders = round_->holders(owner);
  const Shares& known = shares_[owner];
  require(known.size() >= threshold,
          "secure aggregation: {} shares of a secret of site '{}' came, and {} are needed", known.size(),
          agreement_.sites[owner], threshold);
  std::vector<Share> shares;
  for (const bool own : {false, true})  // there is no commitment to the owner's own share
    for (std::size_t i = 0; i < holders.size() && shares.size() < threshold; ++i)
      if (const auto found = known.find(holders[i]); found != known.end() && (holders[i] == owner) == own)
        shares.push_back({static_cast<std::uint16_t>(i + 1), found->second});
  const Secret secret = reconstruct(shares);
  if (is_secret_of(owner, secret)) return secret;
  cheaters_.insert(owner);
  fail(
      "secure aggregation: the shares that site '{}' dealt of a secret do not match its commitment or public "
      "key: it dealt false ones",
      agreement_.sites[owner]);
}

std::vector<Mask> Coordinator::remaining_masks() {
  struct Job {
    Secret secret;
    std::uint32_t site, other;  // equal if the mask is the site's own
  };
  std::vector<Job> jobs;
  for (const std::uint32_t site : sharers_) {
    const Secret secret = secret_of(site);
    if (survived(site)) {
      jobs.push_back({secret, site, site});
      continue;
    }
    for (const std::uint32_t other : round_->graph().masking(site))
      if (survived(other)) jobs.push_back({secret, site, other});
  }
  std::vector<Mask> masks(jobs.size());
  FirstError error;
#pragma omp parallel for schedule(dynamic)
  for (std::size_t i = 0; i < jobs.size(); ++i)
    error.guard([&] {
      const auto& [secret, site, other] = jobs[i];
      if (site == other) {
        masks[i] = round_->own_mask(secret, site);
        masks[i].subtract = true;
      } else {  // the pair mask that the dropped site would have added cancels the one that the survivor
                // added
        masks[i] = round_->pair_mask(secret, site, other);
      }
    });
  error.rethrow();
  return masks;
}

RingVector Coordinator::sum() {
  require(phase_ == Phase::done && !shares_.empty(),
          "secure aggregation: there is no sum yet, or it was already taken");
  add_masks(sum_, remaining_masks());
  shares_.clear();
  return std::move(sum_);
}

}  // namespace conclave::secure_aggregation
