#include "federated/secure_aggregation/keys.h"

#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/kdf.h>

#include "federated/openssl.h"

namespace conclave::secure_aggregation {
namespace {

using PkeyContext = std::unique_ptr<EVP_PKEY_CTX, Freed<EVP_PKEY_CTX_free>>;
using Cipher = std::unique_ptr<EVP_CIPHER_CTX, Freed<EVP_CIPHER_CTX_free>>;
using Kdf = std::unique_ptr<EVP_KDF, Freed<EVP_KDF_free>>;
using KdfContext = std::unique_ptr<EVP_KDF_CTX, Freed<EVP_KDF_CTX_free>>;

constexpr unsigned char kNonce[12] = {};

const unsigned char* read(ByteView bytes) { return reinterpret_cast<const unsigned char*>(bytes.data()); }
unsigned char* write(std::span<std::byte> bytes) { return reinterpret_cast<unsigned char*>(bytes.data()); }
int length(ByteView bytes) { return static_cast<int>(bytes.size()); }

KeyPointer private_pkey(const Secret& key) {
  KeyPointer pkey(EVP_PKEY_new_raw_private_key(EVP_PKEY_X25519, nullptr, read(ByteView(key.bytes())), 32));
  require(pkey != nullptr, "OpenSSL refused an X25519 private key");
  return pkey;
}

}  // namespace

Secret::~Secret() { OPENSSL_cleanse(bytes_.data(), bytes_.size()); }

Key public_key(const Secret& private_key) {
  Key result;
  std::size_t size = result.size();
  require(EVP_PKEY_get_raw_public_key(private_pkey(private_key).get(), write(std::span(result)), &size) == 1,
          "OpenSSL failed to derive an X25519 public key");
  return result;
}

Secret agree(const Secret& private_key, const Key& their_public_key) {
  const KeyPointer ours = private_pkey(private_key);
  const KeyPointer theirs(
      EVP_PKEY_new_raw_public_key(EVP_PKEY_X25519, nullptr, read(ByteView(their_public_key)), 32));
  const PkeyContext context(EVP_PKEY_CTX_new(ours.get(), nullptr));
  Secret result;
  std::size_t size = result.bytes().size();
  require(theirs && context && EVP_PKEY_derive_init(context.get()) == 1 &&
              EVP_PKEY_derive_set_peer(context.get(), theirs.get()) == 1 &&
              EVP_PKEY_derive(context.get(), write(std::span(result.bytes())), &size) == 1,
          "X25519: no secret can be agreed on with that public key");
  return result;
}

Secret derive(const Secret& secret, ByteView context) {
  static const Kdf kdf(EVP_KDF_fetch(nullptr, "HKDF", nullptr));
  const KdfContext derivation(EVP_KDF_CTX_new(kdf.get()));
  char sha[] = "SHA256";
  // OpenSSL's parameters are not const, but are only read.
  const OSSL_PARAM parameters[] = {
      OSSL_PARAM_construct_utf8_string(OSSL_KDF_PARAM_DIGEST, sha, 0),
      OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_KEY, const_cast<std::byte*>(secret.bytes().data()),
                                        secret.bytes().size()),
      OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_INFO, const_cast<std::byte*>(context.data()),
                                        context.size()),
      OSSL_PARAM_construct_end()};
  Secret result;
  require(derivation && EVP_KDF_derive(derivation.get(), write(std::span(result.bytes())),
                                       result.bytes().size(), parameters) == 1,
          "OpenSSL failed to derive a key by HKDF");
  return result;
}

Bytes seal(const Secret& key, ByteView associated, ByteView text) {
  Bytes sealed(text.size() + kSealBytes);
  unsigned char* out = write(std::span(sealed));
  const Cipher cipher(EVP_CIPHER_CTX_new());
  int size;
  require(cipher &&
              EVP_EncryptInit_ex(cipher.get(), EVP_aes_256_gcm(), nullptr, read(ByteView(key.bytes())),
                                 kNonce) == 1 &&
              EVP_EncryptUpdate(cipher.get(), nullptr, &size, read(associated), length(associated)) == 1 &&
              EVP_EncryptUpdate(cipher.get(), out, &size, read(text), length(text)) == 1 &&
              EVP_EncryptFinal_ex(cipher.get(), out + text.size(), &size) == 1 &&
              EVP_CIPHER_CTX_ctrl(cipher.get(), EVP_CTRL_AEAD_GET_TAG, static_cast<int>(kSealBytes),
                                  out + text.size()) == 1,
          "OpenSSL failed to encrypt with AES-256-GCM");
  return sealed;
}

Bytes open(const Secret& key, ByteView associated, ByteView sealed) {
  require(sealed.size() >= kSealBytes, "an encrypted message of {} bytes, which is too few", sealed.size());
  const ByteView text = sealed.first(sealed.size() - kSealBytes);
  Bytes tag(sealed.end() - kSealBytes, sealed.end()), opened(text.size());
  unsigned char* out = write(std::span(opened));
  const Cipher cipher(EVP_CIPHER_CTX_new());
  int size;
  require(cipher &&
              EVP_DecryptInit_ex(cipher.get(), EVP_aes_256_gcm(), nullptr, read(ByteView(key.bytes())),
                                 kNonce) == 1 &&
              EVP_DecryptUpdate(cipher.get(), nullptr, &size, read(associated), length(associated)) == 1 &&
              EVP_DecryptUpdate(cipher.get(), out, &size, read(text), length(text)) == 1 &&
              EVP_CIPHER_CTX_ctrl(cipher.get(), EVP_CTRL_AEAD_SET_TAG, static_cast<int>(kSealBytes),
                                  tag.data()) == 1 &&
              EVP_DecryptFinal_ex(cipher.get(), out + text.size(), &size) == 1,
          "an encrypted message is not from the expected sender, or was altered");
  return opened;
}

}  // namespace conclave::secure_aggregation
