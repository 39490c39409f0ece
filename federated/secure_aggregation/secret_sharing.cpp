#include "federated/secure_aggregation/secret_sharing.h"

#include <openssl/crypto.h>

namespace conclave::secure_aggregation {
namespace {

using Element = std::uint16_t;
using Elements = std::array<Element, 16>;  // of 32 bytes

// Modulo x^16 + x^5 + x^3 + x + 1, which is irreducible. The number of steps is fixed, so that loops over
// elements vectorize.
Element multiply(Element a, Element b) {
  Element product = 0;
  for (int bit = 0; bit < 16; ++bit) {
    product ^= static_cast<Element>(a & -(b & 1));
    a = static_cast<Element>((a << 1) ^ (0x2B & -(a >> 15)));
    b = static_cast<Element>(b >> 1);
  }
  return product;
}

// a^(2^16 - 2), because a^(2^16 - 1) = 1; the inverse of 0 is 0.
Element inverse(Element a) {
  Element result = 1;
  for (int bit = 0; bit < 15; ++bit) {
    a = multiply(a, a);
    result = multiply(result, a);
  }
  return result;
}

Elements elements(const Secret& secret) { return std::bit_cast<Elements>(secret.bytes()); }

// The factors by which the values at `places` give the value at 0.
std::vector<Element> lagrange_at_zero(std::span<const Element> places) {
  std::vector<Element> weights;
  for (std::size_t i = 0; i < places.size(); ++i) {
    Element above = 1, below = 1;
    for (std::size_t j = 0; j < places.size(); ++j)
      if (j != i) {
        above = multiply(above, places[j]);
        below = multiply(below, places[j] ^ places[i]);
      }
    require(places[i] != 0 && below != 0,
            "secret sharing: two shares of the same place {}, or one of place 0", places[i]);
    weights.push_back(multiply(above, inverse(below)));
  }
  return weights;
}

}  // namespace

std::vector<Share> share_secret(const Secret& secret, std::size_t threshold, std::size_t shares,
                                RandomSource& random) {
  require(threshold >= 1 && threshold <= shares && shares <= 65'535,
          "secret sharing: {} shares of which {} are enough; expected 1 <= enough <= shares <= 65535", shares,
          threshold);
  std::vector<Elements> coefficients(threshold);  // from the one of x^0 on
  random.fill(std::as_writable_bytes(std::span(coefficients)));
  coefficients[0] = elements(secret);
  std::vector<Share> result(shares);
  for (std::size_t i = 0; i < shares; ++i) {
    const auto at = static_cast<Element>(i + 1);
    Elements value{};
    for (std::size_t c = threshold; c-- > 0;)  // Horner
      for (std::size_t e = 0; e < value.size(); ++e)
        value[e] = static_cast<Element>(multiply(value[e], at) ^ coefficients[c][e]);
    result[i] = {at, Secret(std::bit_cast<Key>(value))};
    OPENSSL_cleanse(&value, sizeof value);
  }
  OPENSSL_cleanse(coefficients.data(), coefficients.size() * sizeof(Elements));
  return result;
}

Secret reconstruct(std::span<const Share> shares) {
  std::vector<Element> places;
  for (const Share& share : shares) places.push_back(share.at);
  const std::vector<Element> weights = lagrange_at_zero(places);
  Elements sum{};
  for (std::size_t i = 0; i < shares.size(); ++i) {
    const Elements value = elements(shares[i].value);
    for (std::size_t e = 0; e < sum.size(); ++e) sum[e] ^= multiply(value[e], weights[i]);
  }
  return Secret(std::bit_cast<Key>(sum));
}

}  // namespace conclave::secure_aggregation
