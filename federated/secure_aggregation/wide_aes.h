// AES-128 in counter mode, four blocks per instruction, on processors with VAES and AVX-512 (Intel since
// 2019, AMD since 2022). OpenSSL 3.0 encrypts one block at a time in this mode, and masks are most of what a
// coordinator computes. The time is constant, as it is for AES instructions, and the bytes are the same as
// OpenSSL's.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace conclave::secure_aggregation {

class WideAes {
 public:
  static bool available();

  /// `key`: 16 bytes, `nonce`: 8 bytes. Only if available().
  WideAes(const std::byte* key, const std::byte* nonce);
  ~WideAes();
  WideAes(const WideAes&) = delete;
  WideAes& operator=(const WideAes&) = delete;

  /// The stream from block `first` on: AES of the nonce and the block counter, which is big-endian.
  void stream(std::uint64_t first, std::span<std::byte> out) const { run(first, out, 0); }
  /// Adds that stream to words of 2, 4 or 8 bytes, or subtracts it, without a buffer in memory.
  template <class Word>
  void add(std::uint64_t first, std::span<Word> words, bool subtract) const {
    const int size = sizeof(Word);
    run(first, std::as_writable_bytes(words), subtract ? -size : size);
  }

 private:
  // use: the size of words to add to, negative to subtract from, 0 to overwrite
  void run(std::uint64_t first, std::span<std::byte> out, int use) const;
  template <int use>
  void run(std::uint64_t first, std::span<std::byte> out) const;

  alignas(16) std::byte round_keys_[11][16];
  std::uint64_t nonce_;
};

}  // namespace conclave::secure_aggregation
