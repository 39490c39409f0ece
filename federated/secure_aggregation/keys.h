// The cryptographic primitives of secure aggregation, all from OpenSSL: X25519 (RFC 7748), HKDF-SHA256 (RFC
// 5869), AES-256-GCM, SHA-256. Throws Error if a function of OpenSSL fails.
#pragma once

#include <initializer_list>

#include "federated/random_source.h"
#include "federated/secure_aggregation/wire.h"
#include "federated/sha256.h"

namespace conclave::secure_aggregation {

using Key = std::array<std::byte, 32>;

/// 32 secret bytes, which the destructor erases.
class Secret {
 public:
  Secret() = default;
  explicit Secret(const Key& bytes) : bytes_(bytes) {}
  explicit Secret(RandomSource& source) { source.fill(bytes_); }
  ~Secret();
  Secret(const Secret&) = default;
  Secret& operator=(const Secret&) = default;
  const Key& bytes() const { return bytes_; }
  Key& bytes() { return bytes_; }

 private:
  Key bytes_{};
};

inline Key sha256(std::initializer_list<ByteView> parts) { return sha256_digest(parts); }

/// The public key that belongs to an X25519 private key.
Key public_key(const Secret& private_key);

/// X25519. Throws Error for a public key of low order, with which every private key yields the same secret.
Secret agree(const Secret& private_key, const Key& their_public_key);

/// HKDF-SHA256 of a secret, without salt. Different contexts give independent keys.
Secret derive(const Secret& secret, ByteView context);

inline constexpr std::size_t kSealBytes = 16;  // by which a sealed text is longer than the text

/// AES-256-GCM: the ciphertext, then the tag. The nonce is 0, so a key may be used for one message only.
Bytes seal(const Secret& key, ByteView associated, ByteView text);
/// Throws Error unless `sealed` is the result of seal() with the same key and associated bytes.
Bytes open(const Secret& key, ByteView associated, ByteView sealed);

}  // namespace conclave::secure_aggregation
