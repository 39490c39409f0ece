// Masks: what a generator makes of a secret, added to a vector by one and subtracted by another.
//
// The generator is AES-128 in counter mode: any block of a mask can be computed on its own, on any thread.
// Keys from X25519 have 128 bits of security, to which a cipher with longer keys would add nothing. On one
// core of a Xeon with VAES, `openssl speed -evp NAME -bytes 16384` says 6.4 GB/s of aes-128-ctr, 5.4 of
// aes-256-ctr, and 3.9 of chacha20.
#pragma once

#include "federated/secure_aggregation/aes_stream.h"
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
  explicit SeededRandom(const Secret& seed) : stream_(seed) {}
  void fill(std::span<std::byte> out) override;

 private:
  AesStream stream_;
  std::uint64_t next_ = 0;  // blocks of 16 bytes
};

}  // namespace conclave::secure_aggregation
