#include "federated/sha256.h"

#include "core/error.h"
#include "core/text.h"
#include "federated/file_transfer.h"
#include "federated/openssl.h"

namespace conclave {
namespace {

class Digest {
 public:
  Digest() {
    require(context_ && EVP_DigestInit_ex(context_.get(), EVP_sha256(), nullptr) == 1,
            "OpenSSL has no SHA-256");
  }
  void update(std::span<const std::byte> data) {
    require(EVP_DigestUpdate(context_.get(), data.data(), data.size()) == 1,
            "OpenSSL failed to compute SHA-256");
  }
  std::array<std::byte, 32> end() {
    std::array<std::byte, 32> digest;
    require(EVP_DigestFinal_ex(context_.get(), reinterpret_cast<unsigned char*>(digest.data()), nullptr) == 1,
            "OpenSSL failed to compute SHA-256");
    return digest;
  }

 private:
  DigestPointer context_{EVP_MD_CTX_new()};
};

}  // namespace

std::array<std::byte, 32> sha256_digest(std::initializer_list<std::span<const std::byte>> parts) {
  Digest digest;
  for (const auto part : parts) digest.update(part);
  return digest.end();
}

std::string sha256(std::string_view data) {
  return hexadecimal(sha256_digest({std::as_bytes(std::span(data))}));
}

std::string sha256_of(const std::filesystem::path& file) {
  const OutgoingFile source(file);
  Digest digest;
  std::string data;
  for (std::uint64_t at = 0; at < source.bytes(); at += data.size()) {
    source.read(at, data);
    digest.update(std::as_bytes(std::span(data)));
  }
  return hexadecimal(digest.end());
}

}  // namespace conclave
