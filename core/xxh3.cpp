#include "core/xxh3.h"

// Inlined, so that it is compiled for the processors that Conclave targets: Debian's library is built for any
// processor, and half as fast.
#define XXH_INLINE_ALL
#include <xxhash.h>

#include <algorithm>

namespace conclave {
namespace {

Xxh3Digest canonical(XXH128_hash_t hash) {
  XXH128_canonical_t bytes;
  XXH128_canonicalFromHash(&bytes, hash);
  Xxh3Digest digest;
  std::ranges::copy(bytes.digest, digest.begin());
  return digest;
}

}  // namespace

std::uint64_t xxh3_64(const void* data, std::size_t bytes, std::uint64_t seed) {
  return XXH3_64bits_withSeed(data, bytes, seed);
}

Xxh3Digest xxh3_128(const void* data, std::size_t bytes) { return canonical(XXH3_128bits(data, bytes)); }

// XXH3-64 and XXH3-128 have the same state; only the final step differs.
struct Xxh3::State {
  XXH3_state_t state;
};

Xxh3::Xxh3() : state_(std::make_unique<State>()) { XXH3_128bits_reset(&state_->state); }
Xxh3::Xxh3(const Xxh3& other) : state_(std::make_unique<State>()) { *this = other; }
Xxh3& Xxh3::operator=(const Xxh3& other) {
  XXH3_copyState(&state_->state, &other.state_->state);
  return *this;
}
Xxh3::~Xxh3() = default;

void Xxh3::add(std::string_view bytes) { XXH3_128bits_update(&state_->state, bytes.data(), bytes.size()); }

std::uint64_t Xxh3::checksum() const { return XXH3_64bits_digest(&state_->state); }

Xxh3Digest Xxh3::digest() const { return canonical(XXH3_128bits_digest(&state_->state)); }

}  // namespace conclave
