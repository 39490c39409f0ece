// The messages of a round, one struct each, in the order of the round. They are sent as the bytes of
// encode(): version, kind, context, the fields. decode() throws Error on bytes that encode() does not make:
// another version or kind, sizes that do not fit, excess bytes, lists that do not rise.
#pragma once

#include "federated/secure_aggregation/keys.h"

namespace conclave::secure_aggregation {

/// Phase 0, from a site: its public keys for this round, signed with its identity's key.
struct Advertisement {
  Key context{};  ///< the agreement's digest
  std::uint32_t sender = 0;
  Key encryption_key{};  ///< X25519
  Key masking_key{};     ///< X25519
  Bytes signature;       ///< of signed_text()

  Bytes signed_text() const;
  Bytes encode() const;
  static Advertisement decode(ByteView bytes);
};

/// Phase 0, from the coordinator to all: the advertisements of the sites that take part.
struct Roster {
  Key context{};                     ///< the agreement's digest
  std::vector<Advertisement> sites;  ///< by rising sender

  /// The context of all later messages. Sites that were sent different rosters cannot use each other's
  /// messages.
  Key digest() const;
  Bytes encode() const;
  static Roster decode(ByteView bytes);
};

/// One site's shares of its two secrets for one other site, encrypted, and commitments to them
/// (RoundContext::share_commitment): whoever opens the shares, or is shown one at the end, knows whether they
/// are those that were dealt.
inline constexpr std::size_t kSealedShares = 2 * 32 + kSealBytes;
struct SealedShares {
  std::uint32_t other = 0;  ///< on the way to the coordinator: the recipient; from the coordinator: the owner
  std::array<std::byte, kSealedShares> sealed{};
  std::array<Key, 2> commitments{};  ///< to the share of the seed, and of the masking key
};

/// Phase 1, from a site: shares of its two secrets, for its sharing neighbours.
struct SharesUpload {
  Key context{};  ///< the roster's digest
  std::uint32_t sender = 0;
  Key commitment{};  ///< to the seed of the site's own mask
  std::vector<SealedShares> shares;

  Bytes encode() const;
  static SharesUpload decode(ByteView bytes);
};

/// Phase 1, from the coordinator to one site: the shares that others have encrypted for this site.
struct SharesDelivery {
  Key context{};  ///< the roster's digest
  std::vector<SealedShares> shares;

  Bytes encode() const;
  static SharesDelivery decode(ByteView bytes);
};

/// A site's word to one of its sharing neighbours that the neighbour's shares have come, so that the two have
/// a mask in common if they are masking neighbours. Only they can compute the token: the coordinator can pass
/// it on or hold it back, and not make it up.
struct Receipt {
  std::uint32_t other = 0;  ///< on the way to the coordinator: for whom; from the coordinator: whose
  Key token{};
};

/// The token of the receipt for or of `other`; null if there is none. `receipts` rise.
const Key* token_in(const std::vector<Receipt>& receipts, std::uint32_t other);

/// Phase 2, from a site: its vector plus its masks, packed as in ring.h.
struct MaskedInput {
  Key context{};  ///< the roster's digest
  std::uint32_t sender = 0;
  std::vector<Receipt> receipts;  ///< for all sites whose shares have come
  std::vector<Receipt> expected;  ///< of all sharing neighbours, with the SHA-256 of their tokens
  Bytes packed;

  /// Bytes before `packed`, which is the rest, at most, in a round of `sites`.
  static std::size_t most_head(std::size_t sites);

  Bytes encode() const;
  static MaskedInput decode(ByteView bytes);
};

/// Phase 2, from the coordinator to one site: the sites whose vectors are in the sum.
struct Survivors {
  Key context{};  ///< the roster's digest
  std::vector<std::uint32_t> sites;
  std::vector<Receipt> receipts = {};  ///< of the survivors to which the site's shares have come

  Bytes signed_text() const;  ///< of `sites`: what a site signs to consent to these survivors
  Bytes encode() const;
  static Survivors decode(ByteView bytes);
};

/// Phase 3, from a site: its signature of the survivors that it was told.
struct Consent {
  Key context{};  ///< the roster's digest
  std::uint32_t sender = 0;
  Bytes signature;  ///< of the survivors' signed_text()

  Bytes encode() const;
  static Consent decode(ByteView bytes);
};

/// Phase 3, from the coordinator to one site: the consents of its neighbours.
struct Consents {
  Key context{};  ///< the roster's digest
  std::vector<Consent> sites;

  Bytes encode() const;
  static Consents decode(ByteView bytes);
};

/// Phase 4, from a site: for each neighbour and for itself, a share of one of that site's two secrets.
struct Unmasking {
  struct Part {
    std::uint32_t owner = 0;
    bool dropped = false;  ///< `share` is of the owner's masking key, its private half; otherwise of the seed
                           ///< of the owner's own mask
    Secret share;
  };
  Key context{};  ///< the roster's digest
  std::uint32_t sender = 0;
  std::vector<Part> parts;  ///< by rising owner

  Bytes encode() const;
  static Unmasking decode(ByteView bytes);
};

}  // namespace conclave::secure_aggregation
