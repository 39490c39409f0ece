// AES-128 in counter mode: the stream of bytes that belongs to a seed, from any block of 16 bytes on.
#pragma once

#include <memory>
#include <optional>

#include "federated/secure_aggregation/keys.h"
#include "federated/secure_aggregation/wide_aes.h"

struct evp_cipher_ctx_st;

namespace conclave::secure_aggregation {

class AesStream {
 public:
  /// The first 16 bytes of the seed are the key. The next 8 are the nonce, which precedes the 64-bit block
  /// counter. `wide`: computed by WideAes instead of OpenSSL; the bytes are the same.
  explicit AesStream(const Secret& seed, bool wide = WideAes::available());

  /// Writes the stream from byte 16 * `block` on. Throws Error if OpenSSL fails.
  void fill(std::uint64_t block, std::span<std::byte> out) const;

  /// Calls WideAes::add(); returns false, and does nothing, if WideAes is not used.
  template <class Word>
  bool add(std::uint64_t block, std::span<Word> words, bool subtract) const {
    if (wide_) wide_->add(block, words, subtract);
    return wide_.has_value();
  }

 private:
  struct Free {
    void operator()(evp_cipher_ctx_st* context) const;
  };
  std::optional<WideAes> wide_;
  std::array<std::byte, 8> nonce_;
  std::unique_ptr<evp_cipher_ctx_st, Free> context_;
};

}  // namespace conclave::secure_aggregation
