// A site's side of one round of secure aggregation: Bonawitz et al., CCS 2017, figure 4, in the variant for a
// coordinator that may lie, with the neighbours of neighbours.h.
//
//     advertise -> share(roster) -> mask(delivery, vector) -> consent(survivors) -> unmask(consents)
//
// Call them in this order, each once. A call out of order, or a message that is refused, throws Error; after
// a refusal the site takes no further part. The destructor erases the site's keys, and the next round has new
// ones. If a round failed, the same vector may be summed again only as federated/round_record.h says: two
// sums over different survivors reveal their difference.
#pragma once

#include <functional>
#include <map>
#include <optional>
#include <set>

#include "federated/secure_aggregation/round_context.h"

namespace conclave::secure_aggregation {

/// The sites' long-lived keys (ECDSA P-256, of their certificates), as functions: this module needs no more
/// of them.
struct Identity {
  std::function<Bytes(ByteView message)> sign;  ///< with this site's own key
  /// Whether the signature of the message was made by the site that has this number in the agreement.
  std::function<bool(std::uint32_t site, ByteView message, ByteView signature)> verify;
};

class Site {
 public:
  /// `self`: this site's number in the agreement. `random` must outlive this.
  Site(Agreement agreement, std::uint32_t self, Identity identity, RandomSource& random);

  Advertisement advertise();
  /// Refuses a roster that lacks this site's own keys, has a wrong signature, or has too few sites.
  SharesUpload share(const Roster& roster);
  /// `vector` [agreement.length]: integers, with noise already added; only their values modulo 2^bits matter.
  /// Shares that cannot be opened, or are not those that were committed to, count as not come. Refuses shares
  /// of too few neighbours to reconstruct a secret. If they are too few only without those that cannot be
  /// used, returns random words in place of the vector, and takes no further part: the receipts that are
  /// missing beside them show an honest coordinator between which sites the fault is, and it makes no sum.
  MaskedInput mask(const SharesDelivery& delivery, std::span<const std::int64_t> vector);
  /// Whether mask() returned the vector, and not random words.
  bool has_masked() const { return has_masked_; }
  /// Refuses survivors that lack this site, are fewer than `least`, or include a neighbour whose shares never
  /// came here, or to which this site's never came: one of the two has no mask for the other, as each of them
  /// notices.
  Consent consent(const Survivors& survivors);
  /// Refuses unless at least `threshold` sites, itself included, signed the same survivors; no other set of
  /// survivors can then have as many, if no more sites collude than agreed. Returns one share for each
  /// neighbour and for itself: of the masking key if that site dropped out, of the seed if it survived, never
  /// of both.
  Unmasking unmask(const Consents& consents);

 private:
  enum class Phase { advertise, share, mask, consent, unmask, done };
  /// Throws Error unless `phase` is next. Until leave(), no phase is next.
  void enter(Phase phase);
  void leave(Phase next) { next_ = next; }
  void check_receipt(const Survivors& survivors, std::uint32_t other) const;

  struct HeldShares {
    Secret seed, masking_key;
  };

  Agreement agreement_;
  std::uint32_t self_;
  Identity identity_;
  RandomSource& random_;
  Secret encryption_key_, masking_key_, seed_;
  Phase next_ = Phase::advertise;
  std::optional<RoundContext> round_;
  std::map<std::uint32_t, HeldShares> held_;  // by owner; including this site's own
  std::vector<Receipt> expected_;             // as sent
  Survivors survivors_;
  bool has_masked_ = false;
};

}  // namespace conclave::secure_aggregation
