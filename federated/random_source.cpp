#include "federated/random_source.h"

#include <openssl/crypto.h>
#include <openssl/rand.h>

#include <climits>

#include "core/error.h"

namespace conclave {

void SystemRandom::fill(std::span<std::byte> out) {
  while (!out.empty()) {
    const std::size_t some = std::min<std::size_t>(out.size(), INT_MAX);
    require(RAND_priv_bytes(reinterpret_cast<unsigned char*>(out.data()), static_cast<int>(some)) == 1,
            "no randomness: OpenSSL's generator could not be seeded by the operating system");
    out = out.subspan(some);
  }
}

RandomBits::~RandomBits() { OPENSSL_cleanse(buffer_.data(), sizeof buffer_); }

void RandomBits::refill() {
  source_.fill(std::as_writable_bytes(std::span(buffer_)));
  used_ = 0;
}

// Rejects the lowest (2^64 mod bound) of the 2^64 values; with them, the first results would be likelier.
std::uint64_t RandomBits::below(std::uint64_t bound) {
  const std::uint64_t unfair = -bound % bound;
  std::uint64_t drawn;
  do drawn = next();
  while (drawn < unfair);
  return drawn % bound;
}

}  // namespace conclave
