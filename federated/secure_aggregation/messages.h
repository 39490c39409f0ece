// What sites and coordinator send each other in a round, one struct each, in the order of a round. Whoever
// carries them carries encode()'s bytes: version, kind, context, the fields. decode() throws Error on
// anything else than what encode() makes: another version or kind, sizes that do not fit, a byte too many,
// lists that do not rise.
#pragma once

#include "federated/secure_aggregation/keys.h"

namespace conclave::secure_aggregation {

/// Phase 0, site: its public keys for this round, signed with its identity's key.
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

/// Phase 0, coordinator, to all: the advertisements of those who take part.
struct Roster {
  Key context{};                     ///< the agreement's digest
  std::vector<Advertisement> sites;  ///< by rising sender

  /// The context of all that follows: sites that were told different keys understand nobody.
  Key digest() const;
  Bytes encode() const;
  static Roster decode(ByteView bytes);
};

/// Shares of the two secrets of a site for another, encrypted.
inline constexpr std::size_t kSealedShares = 2 * 32 + kSealBytes;
struct SealedShares {
  std::uint32_t other = 0;  ///< who they are for, on the way to the coordinator; then, from whom they are
  std::array<std::byte, kSealedShares> sealed{};
};

/// Phase 1, site.
struct SharesUpload {
  Key context{};  ///< the roster's digest
  std::uint32_t sender = 0;
  Key commitment{};  ///< to the seed of its own mask
  std::vector<SealedShares> shares;

  Bytes encode() const;
  static SharesUpload decode(ByteView bytes);
};

/// Phase 1, coordinator, to one site: the shares for it.
struct SharesDelivery {
  Key context{};  ///< the roster's digest
  std::vector<SealedShares> shares;

  Bytes encode() const;
  static SharesDelivery decode(ByteView bytes);
};

/// Phase 2, site: its vector and masks, as ring.h has it travel.
struct MaskedInput {
  Key context{};  ///< the roster's digest
  std::uint32_t sender = 0;
  Bytes packed;

  static constexpr std::size_t kHead = 38;  ///< bytes before the packed ones, which go to the end

  Bytes encode() const;
  static MaskedInput decode(ByteView bytes);
};

/// Phase 2, coordinator, to all: whose vectors are in the sum.
struct Survivors {
  Key context{};  ///< the roster's digest
  std::vector<std::uint32_t> sites;

  Bytes signed_text() const;  ///< what a site signs that was told this
  Bytes encode() const;
  static Survivors decode(ByteView bytes);
};

/// Phase 3, site: that it was told these survivors.
struct Consent {
  Key context{};  ///< the roster's digest
  std::uint32_t sender = 0;
  Bytes signature;  ///< of the survivors' signed_text()

  Bytes encode() const;
  static Consent decode(ByteView bytes);
};

/// Phase 3, coordinator, to one site: what its neighbours consented to.
struct Consents {
  Key context{};  ///< the roster's digest
  std::vector<Consent> sites;

  Bytes encode() const;
  static Consents decode(ByteView bytes);
};

/// Phase 4, site: of each neighbour and itself, a share of one secret.
struct Unmasking {
  struct Part {
    std::uint32_t owner = 0;
    bool dropped = false;  ///< the share is of its masking key's private half, else of its own mask's seed
    Secret share;
  };
  Key context{};  ///< the roster's digest
  std::uint32_t sender = 0;
  std::vector<Part> parts;  ///< by rising owner

  Bytes encode() const;
  static Unmasking decode(ByteView bytes);
};

}  // namespace conclave::secure_aggregation
