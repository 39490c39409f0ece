#include "federated/secure_aggregation/aes_stream.h"

#include <openssl/evp.h>

namespace conclave::secure_aggregation {
namespace {

const EVP_CIPHER* cipher() {
  // Fetched once: EVP_aes_128_ctr() makes OpenSSL 3 look the cipher up, under a lock, for every key.
  static const std::unique_ptr<EVP_CIPHER, void (*)(EVP_CIPHER*)> aes(
      EVP_CIPHER_fetch(nullptr, "AES-128-CTR", nullptr), EVP_CIPHER_free);
  return aes.get();
}

constexpr std::array<unsigned char, 1 << 14> kZeros{};  // the plaintext

}  // namespace

void AesStream::Free::operator()(evp_cipher_ctx_st* context) const { EVP_CIPHER_CTX_free(context); }

AesStream::AesStream(const Secret& seed, bool wide) {
  const std::byte* key = seed.bytes().data();
  std::copy_n(key + 16, nonce_.size(), nonce_.begin());
  if (wide) {
    wide_.emplace(key, key + 16);
    return;
  }
  context_.reset(EVP_CIPHER_CTX_new());
  require(context_ && EVP_EncryptInit_ex(context_.get(), cipher(), nullptr,
                                         reinterpret_cast<const unsigned char*>(key), nullptr) == 1,
          "OpenSSL refused a key for AES-128-CTR");
}

void AesStream::fill(std::uint64_t block, std::span<std::byte> out) const {
  if (wide_) return wide_->stream(block, out);
  std::array<unsigned char, 16> counter;
  std::memcpy(counter.data(), nonce_.data(), 8);
  for (std::size_t i = 0; i < 8; ++i) counter[15 - i] = static_cast<unsigned char>(block >> (8 * i));
  bool good = EVP_EncryptInit_ex(context_.get(), nullptr, nullptr, nullptr, counter.data()) == 1;
  for (std::size_t at = 0; at < out.size() && good; at += kZeros.size()) {
    int size = static_cast<int>(std::min(kZeros.size(), out.size() - at));
    good = EVP_EncryptUpdate(context_.get(), reinterpret_cast<unsigned char*>(out.data()) + at, &size,
                             kZeros.data(), size) == 1;
  }
  require(good, "OpenSSL failed to encrypt with AES-128-CTR");
}

}  // namespace conclave::secure_aggregation
