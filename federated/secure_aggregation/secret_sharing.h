// Shamir's secret sharing (1979): of m shares, any `threshold` give the secret back and fewer say nothing.
//
// The field is GF(2^16), two bytes of the secret at a time: a secret of any bytes is a list of field elements
// as it stands (of a prime field, it would have to be reduced or drawn below the prime), adding is XOR, and
// multiplying 16 steps without a branch or a table that depend on the secret. 65,535 shares are possible; of
// GF(2^8) it would be 255, which neighbourhoods among many sites can exceed.
#pragma once

#include "federated/secure_aggregation/keys.h"

namespace conclave::secure_aggregation {

/// The value at `at` of 16 random polynomials whose values at 0 are the secret.
struct Share {
  std::uint16_t at = 0;  ///< from 1
  Secret value;
};

/// Shares at 1, ..., `shares`; 1 <= threshold <= shares <= 65,535. Forgets the polynomials.
std::vector<Share> share_secret(const Secret& secret, std::size_t threshold, std::size_t shares,
                                RandomSource& random);

/// The secret of exactly as many shares as the threshold was. Throws Error where two are at the same place.
/// Shares that were altered give some other secret: compare what it is for.
Secret reconstruct(std::span<const Share> shares);

}  // namespace conclave::secure_aggregation
