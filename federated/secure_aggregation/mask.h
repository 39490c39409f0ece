// Masks: what a generator makes of a secret, added to a vector by one and subtracted by another.
//
// The generator is AES-128 in counter mode, by OpenSSL: a pseudorandom function in the counter, so that any
// block of a mask can be computed on its own, on any thread. Keys from X25519 have 128 bits of security, more
// than which a cipher with longer keys would not add. (On a Xeon with AES instructions, AES-128-CTR made
// 6.4 GB/s on a core, AES-256-CTR 5.4, ChaCha20 3.9: `openssl speed -evp aes-128-ctr -bytes 16384`.)
#pragma once

#include "federated/secure_aggregation/keys.h"
#include "federated/secure_aggregation/ring.h"

namespace conclave::secure_aggregation {

struct Mask {
  Secret seed;            ///< of this mask alone: key and nonce
  bool subtract = false;  ///< rather than add
};

/// Adds all of the masks to a vector, on all threads, without memory of the vector's size.
void add_masks(RingVector& vector, std::span<const Mask> masks);

/// The sum of `values`, which may be anything modulo 2^bits, and the masks, as it travels. [values.size() *
/// ring.width]
Bytes masked(Ring ring, std::span<const std::int64_t> values, std::span<const Mask> masks);

/// The bytes of a seed's stream one after the other: random numbers on which all who have the seed agree.
class SeededRandom : public RandomSource {
 public:
  explicit SeededRandom(const Secret& seed) : seed_(seed) {}
  void fill(std::span<std::byte> out) override;

 private:
  Secret seed_;
  std::uint64_t next_ = 0;  // blocks of 16 bytes
};

}  // namespace conclave::secure_aggregation
