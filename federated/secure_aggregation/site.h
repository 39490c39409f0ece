// One round of secure aggregation as a site goes through it: Bonawitz et al., CCS 2017, figure 4, in the
// variant for a coordinator that may lie, among neighbours as in neighbours.h.
//
//     advertise -> share(roster) -> mask(delivery, vector) -> consent(survivors) -> unmask(consents)
//
// In this order, each once; what comes out of order, or is refused, throws Error, and after a refusal the
// site takes no further part. A site forgets its keys when it goes, and begins the next round anew. When a
// round failed, the same vector may be summed again, under another round number, only by sites that did not
// reach unmask(): two sums over different survivors tell their difference.
#pragma once

#include <functional>
#include <map>
#include <optional>
#include <set>

#include "federated/secure_aggregation/round_context.h"

namespace conclave::secure_aggregation {

/// The sites' long-lived keys (ECDSA P-256 of their certificates), of which this room knows only what they
/// do.
struct Identity {
  std::function<Bytes(ByteView message)> sign;  ///< with the own key
  /// Whether the site of this number in the agreement signed the message.
  std::function<bool(std::uint32_t site, ByteView message, ByteView signature)> verify;
};

class Site {
 public:
  /// `self`: the own number in the agreement. `random` must outlive this.
  Site(Agreement agreement, std::uint32_t self, Identity identity, RandomSource& random);

  Advertisement advertise();
  /// Refuses a roster without this site's own keys, with a signature that is wrong, or of too few sites.
  SharesUpload share(const Roster& roster);
  /// `vector` [agreement.length]: integers, noise already among them; only their value modulo the ring's size
  /// matters. Refuses shares that were altered, or of too few neighbours to give a secret back.
  MaskedInput mask(const SharesDelivery& delivery, std::span<const std::int64_t> vector);
  /// Refuses survivors without this site, fewer than the least, or whose shares it never saw.
  Consent consent(const Survivors& survivors);
  /// Refuses unless enough neighbours signed the same survivors that no other set can be as well: then of
  /// each neighbour one share, never both.
  Unmasking unmask(const Consents& consents);

 private:
  enum class Phase { advertise, share, mask, consent, unmask, done };
  /// Throws Error unless `phase` is next; then nothing is until leave().
  void enter(Phase phase);
  void leave(Phase next) { next_ = next; }

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
  std::map<std::uint32_t, HeldShares> held_;  // by owner; its own among them
  Survivors survivors_;
};

}  // namespace conclave::secure_aggregation
