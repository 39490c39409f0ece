// AES-128 in counter mode: the bytes that a seed stands for, from any block of 16 on.
#pragma once

#include <memory>
#include <optional>

#include "federated/secure_aggregation/keys.h"
#include "federated/secure_aggregation/wide_aes.h"

struct evp_cipher_ctx_st;

namespace conclave::secure_aggregation {

class AesStream {
 public:
  /// Of the seed, 16 bytes are the key and the 8 behind them the nonce, beside which the counter runs.
  /// `wide`: by WideAes, else by OpenSSL; the bytes are the same.
  explicit AesStream(const Secret& seed, bool wide = WideAes::available());

  /// Bytes 16 * `block` and following. Throws Error where OpenSSL does not compute them.
  void fill(std::uint64_t block, std::span<std::byte> out) const;

  /// WideAes::add() where that computes it, else false.
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
