#include "federated/sha256.h"

#include <fmt/ranges.h>
#include <openssl/evp.h>

#include <array>
#include <memory>

#include "core/error.h"
#include "federated/file_transfer.h"

namespace conclave {
namespace {

class Digest {
 public:
  Digest() : context_(EVP_MD_CTX_new(), &EVP_MD_CTX_free) {
    require(context_ && EVP_DigestInit_ex(context_.get(), EVP_sha256(), nullptr) == 1,
            "OpenSSL has no SHA-256");
  }
  void update(std::string_view data) { EVP_DigestUpdate(context_.get(), data.data(), data.size()); }
  std::string hexadecimal() {
    std::array<unsigned char, EVP_MAX_MD_SIZE> digest;
    unsigned size = 0;
    require(EVP_DigestFinal_ex(context_.get(), digest.data(), &size) == 1, "OpenSSL has no SHA-256");
    return fmt::format("{:02x}", fmt::join(digest.begin(), digest.begin() + size, ""));
  }

 private:
  std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)> context_;
};

}  // namespace

std::string sha256(std::string_view data) {
  Digest digest;
  digest.update(data);
  return digest.hexadecimal();
}

std::string sha256_of(const std::filesystem::path& file) {
  const OutgoingFile source(file);
  Digest digest;
  std::string data;
  for (std::uint64_t at = 0; at < source.bytes(); at += data.size()) {
    source.read(at, data);
    digest.update(data);
  }
  return digest.hexadecimal();
}

}  // namespace conclave
