// Shamir's secret sharing (1979): any `threshold` shares reconstruct the secret; fewer reveal nothing about
// it.
//
// The field is GF(2^16), and each two bytes of the secret are one element of it. So any bytes are field
// elements without conversion; in a prime field, a secret would have to be reduced, or drawn below the prime.
// Addition is XOR, and multiplication takes 16 steps without branches or tables that depend on the secret. Up
// to 65,535 shares are possible. GF(2^8) would allow 255, and among many sites a neighbourhood can be larger.
#pragma once

#include "federated/secure_aggregation/keys.h"

namespace conclave::secure_aggregation {

/// The values at point `at` of 16 random polynomials whose values at 0 are the secret.
struct Share {
  std::uint16_t at = 0;  ///< from 1 on
  Secret value;
};

/// Shares at points 1, ..., `shares`; 1 <= threshold <= shares <= 65,535. Erases the polynomials.
std::vector<Share> share_secret(const Secret& secret, std::size_t threshold, std::size_t shares,
                                RandomSource& random);

/// The secret from exactly `threshold` shares. Throws Error if two are at the same point. Altered shares
/// yield another secret without an error, so the caller must compare the result with a commitment or a public
/// key.
Secret reconstruct(std::span<const Share> shares);

}  // namespace conclave::secure_aggregation
