// AES-128 in counter mode, four blocks to an instruction, where the processor has VAES and AVX-512 (Intel
// since 2019, AMD since 2022). OpenSSL 3.0 encrypts in this mode one block at a time, and masks are most of
// what a coordinator computes. Constant in time, as AES instructions are, and the same bytes as OpenSSL's.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace conclave::secure_aggregation {

class WideAes {
 public:
  static bool available();

  /// `key` 16 bytes, `nonce` 8. Where available().
  WideAes(const std::byte* key, const std::byte* nonce);
  ~WideAes();
  WideAes(const WideAes&) = delete;
  WideAes& operator=(const WideAes&) = delete;

  /// The stream from block `first`: AES of nonce and counter, big-endian.
  void stream(std::uint64_t first, std::span<std::byte> out) const { run(first, out, 0); }
  /// The same, added to or subtracted from words of 2, 4 or 8 bytes without a way through memory.
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
