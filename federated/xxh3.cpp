#include "federated/xxh3.h"

// Compiled here for the processors that Conclave is for: Debian's library is for all, and half as fast.
#define XXH_INLINE_ALL
#include <xxhash.h>

#include <algorithm>

namespace conclave {

// The states of XXH3-64 and of XXH3-128 are one and the same; only what is made of them at the end differs.
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

std::array<std::uint8_t, 16> Xxh3::digest() const {
  XXH128_canonical_t canonical;
  XXH128_canonicalFromHash(&canonical, XXH3_128bits_digest(&state_->state));
  std::array<std::uint8_t, 16> digest;
  std::ranges::copy(canonical.digest, digest.begin());
  return digest;
}

}  // namespace conclave
