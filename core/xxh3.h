// XXH3 hashes. They detect accidental changes by disks, memory and networks, but not deliberate ones.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string_view>

namespace conclave {

/// XXH3-128 in canonical (big-endian) form: what Python's xxhash.xxh3_128_digest gives.
using Xxh3Digest = std::array<std::uint8_t, 16>;

std::uint64_t xxh3_64(const void* data, std::size_t bytes, std::uint64_t seed = 0);
Xxh3Digest xxh3_128(const void* data, std::size_t bytes);

/// The hash of bytes that arrive in pieces.
class Xxh3 {
 public:
  Xxh3();
  Xxh3(const Xxh3& other);
  Xxh3& operator=(const Xxh3& other);
  ~Xxh3();

  void add(std::string_view bytes);
  /// XXH3-64 of all that was added.
  std::uint64_t checksum() const;
  /// XXH3-128 of all that was added.
  Xxh3Digest digest() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace conclave
