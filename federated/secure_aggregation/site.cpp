#include "federated/secure_aggregation/site.h"

#include <openssl/crypto.h>

#include "federated/secure_aggregation/secret_sharing.h"

namespace conclave::secure_aggregation {
namespace {

// Owner and holder of shares, as part of what is authenticated.
Bytes from_to(std::uint32_t from, std::uint32_t to) { return WireWriter().u32(from).u32(to).take(); }

}  // namespace

Site::Site(Agreement agreement, std::uint32_t self, Identity identity, RandomSource& random)
    : agreement_(std::move(agreement)),
      self_(self),
      identity_(std::move(identity)),
      random_(random),
      encryption_key_(random),
      masking_key_(random),
      seed_(random) {
  agreement_.check();
  require(self < agreement_.sites.size(), "secure aggregation: site {} of {}", self, agreement_.sites.size());
}

void Site::enter(Phase phase) {
  require(next_ != Phase::done,
          "secure aggregation: this site has finished the round, or refused to go on with it");
  require(next_ == phase, "secure aggregation: a message out of order");
  next_ = Phase::done;
}

Advertisement Site::advertise() {
  enter(Phase::advertise);
  Advertisement advertisement{.context = agreement_.digest(),
                              .sender = self_,
                              .encryption_key = public_key(encryption_key_),
                              .masking_key = public_key(masking_key_),
                              .signature = {}};
  advertisement.signature = identity_.sign(advertisement.signed_text());
  leave(Phase::share);
  return advertisement;
}

SharesUpload Site::share(const Roster& roster) {
  enter(Phase::share);
  round_.emplace(agreement_, roster);
  require(round_->has(self_) && round_->keys(self_).encryption_key == public_key(encryption_key_) &&
              round_->keys(self_).masking_key == public_key(masking_key_),
          "secure aggregation: the roster does not have the keys that this site advertised");
  for (const Advertisement& site : roster.sites) {
    require(
        site.context == roster.context && identity_.verify(site.sender, site.signed_text(), site.signature),
        "secure aggregation: the keys of site '{}' in the roster are not signed by it",
        agreement_.sites[site.sender]);
  }

  const std::vector<std::uint32_t> holders = round_->holders(self_);
  const std::size_t threshold = round_->graph().degrees().threshold;
  const auto seeds = share_secret(seed_, threshold, holders.size(), random_);
  const auto keys = share_secret(masking_key_, threshold, holders.size(), random_);
  SharesUpload upload{round_->digest(), self_, round_->commitment(seed_, self_), {}};
  for (std::size_t i = 0; i < holders.size(); ++i) {
    if (holders[i] == self_) {
      held_[self_] = {seeds[i].value, keys[i].value};
      continue;
    }
    std::array<Key, 2> both = {seeds[i].value.bytes(), keys[i].value.bytes()};
    const Bytes sealed = seal(round_->share_key(encryption_key_, self_, self_, holders[i]),
                              from_to(self_, holders[i]), std::as_bytes(std::span(both)));
    OPENSSL_cleanse(&both, sizeof both);
    SealedShares& shares = upload.shares.emplace_back();
    shares.other = holders[i];
    std::ranges::copy(sealed, shares.sealed.begin());
    shares.commitments = {round_->share_commitment(seeds[i].value, false, self_, holders[i]),
                          round_->share_commitment(keys[i].value, true, self_, holders[i])};
  }
  leave(Phase::mask);
  return upload;
}

MaskedInput Site::mask(const SharesDelivery& delivery, std::span<const std::int64_t> vector) {
  enter(Phase::mask);
  round_->check(delivery.context);
  require(vector.size() == agreement_.length, "secure aggregation: a vector of {} words, expected {}",
          vector.size(), agreement_.length);
  const NeighbourGraph& graph = round_->graph();
  const std::vector<std::uint32_t> owners = graph.sharing(self_);
  for (const SealedShares& shares : delivery.shares) {
    const std::uint32_t from = shares.other;
    require(std::ranges::binary_search(owners, from) && !held_.contains(from),
            "secure aggregation: shares of site {} for this one, which are not expected or came twice", from);
    Bytes both;
    try {
      both =
          open(round_->share_key(encryption_key_, self_, from, self_), from_to(from, self_), shares.sealed);
    } catch (const Error&) {  // they count as not come; the coordinator sees that there is no receipt
      continue;
    }
    HeldShares held;
    std::copy_n(both.begin(), 32, held.seed.bytes().begin());
    std::copy_n(both.begin() + 32, 32, held.masking_key.bytes().begin());
    OPENSSL_cleanse(both.data(), both.size());
    if (shares.commitments[0] == round_->share_commitment(held.seed, false, from, self_) &&
        shares.commitments[1] == round_->share_commitment(held.masking_key, true, from, self_))
      held_[from] = held;
  }
  const std::size_t threshold = graph.degrees().threshold;
  require(delivery.shares.size() + 1 >= threshold,
          "secure aggregation: shares of {} sites came, and {} are needed", delivery.shares.size() + 1,
          threshold);
  has_masked_ = held_.size() >= threshold;

  std::vector<Mask> masks = {round_->own_mask(seed_, self_)};
  MaskedInput input{
      .context = round_->digest(), .sender = self_, .receipts = {}, .expected = {}, .packed = {}};
  for (const std::uint32_t other : graph.masking(self_))
    if (held_.contains(other)) masks.push_back(round_->pair_mask(masking_key_, self_, other));
  for (const std::uint32_t other : owners) {
    if (held_.contains(other))
      input.receipts.push_back({other, round_->receipt(encryption_key_, self_, self_, other)});
    input.expected.push_back({other, sha256({round_->receipt(encryption_key_, self_, other, self_)})});
  }
  expected_ = input.expected;
  if (has_masked_) {
    input.packed = masked(agreement_.ring, vector, masks);
    leave(Phase::consent);
  } else {
    input.packed.resize(agreement_.length * agreement_.ring.width);
    random_.fill(input.packed);
  }
  return input;
}

void Site::check_receipt(const Survivors& survivors, std::uint32_t other) const {
  const Key *const told = token_in(survivors.receipts, other), *const expected = token_in(expected_, other);
  require(
      told && expected && sha256({*told}) == *expected,
      "secure aggregation: site '{}' is among the survivors, and does not confirm that this site's shares "
      "have come, so it may have no mask in common with this site; the coordinator may have held them back",
      agreement_.sites[other]);
}

Consent Site::consent(const Survivors& survivors) {
  enter(Phase::consent);
  round_->check(survivors.context);
  const auto& sites = survivors.sites;
  require(std::ranges::is_sorted(sites, std::ranges::less_equal{}) &&
              std::ranges::includes(round_->sites(), sites) && std::ranges::binary_search(sites, self_),
          "secure aggregation: the survivors are not all in the roster, or do not include this site");
  require(sites.size() >= agreement_.least,
          "secure aggregation: the coordinator asks for the sum over {} sites; this site helps only with "
          "sums over at least {}",
          sites.size(), agreement_.least);
  std::vector<std::uint32_t> neighbours = round_->graph().sharing(self_);
  std::erase_if(neighbours, [&](std::uint32_t site) { return !std::ranges::binary_search(sites, site); });
  for (const std::uint32_t other : neighbours)
    require(held_.contains(other),
            "secure aggregation: site '{}' is among the survivors, and its shares never came",
            agreement_.sites[other]);
  for (const std::uint32_t other : neighbours) check_receipt(survivors, other);
  survivors_ = survivors;
  Consent consent{round_->digest(), self_, identity_.sign(survivors.signed_text())};
  leave(Phase::unmask);
  return consent;
}

Unmasking Site::unmask(const Consents& consents) {
  enter(Phase::unmask);
  round_->check(consents.context);
  const Bytes text = survivors_.signed_text();
  const auto survived = [&](std::uint32_t site) {
    return std::ranges::binary_search(survivors_.sites, site);
  };
  std::set<std::uint32_t> agreed = {self_};
  for (const Consent& consent : consents.sites) {
    // A consent that is not a neighbour's, is for other survivors or has a wrong signature does not count,
    // but does not stop the round either.
    if (held_.contains(consent.sender) && survived(consent.sender) &&
        identity_.verify(consent.sender, text, consent.signature))
      agreed.insert(consent.sender);
  }
  const std::size_t threshold = round_->graph().degrees().threshold;
  require(agreed.size() >= threshold,
          "secure aggregation: {} neighbours signed the survivors that this site was told of, and {} are "
          "needed; the coordinator may have told other sites of other survivors",
          agreed.size(), threshold);
  Unmasking unmasking{round_->digest(), self_, {}};
  for (const auto& [owner, held] : held_) {
    const bool dropped = !survived(owner);
    unmasking.parts.push_back({owner, dropped, dropped ? held.masking_key : held.seed});
  }
  held_.clear();
  return unmasking;
}

}  // namespace conclave::secure_aggregation
