// Who is who in a federation. One authority signs a certificate for the coordinator and one for each site
// (ECDSA P-256, SHA-256, X.509 v3); a connection is let in by such a certificate alone, over TLS 1.3. Being
// signed is not enough: the coordinator also has a list of the certificates it lets in, by fingerprint, so
// that one is revoked by taking its line away, and renewed by another line.
//
// A start-up kit is a folder: authority.pem, certificate.pem, key.pem (readable by its owner alone), and, for
// the coordinator, sites.txt, the list.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "federated/openssl.h"

namespace conclave {

/// The name in the coordinator's certificate, which no site may have.
inline constexpr std::string_view kCoordinatorName = "coordinator";

/// Letters, digits, '-' and '_', at most 63: fit for a certificate, a file's name, a line of a list.
bool is_site_name(std::string_view name);

/// Of a certificate in PEM: SHA-256 of its DER form in hexadecimal; its subject's common name; when it ends,
/// in seconds since 1970. Throws Error where it is none.
struct CertificateInfo {
  std::string fingerprint, name;
  std::int64_t not_after = 0;
};
CertificateInfo certificate_info(std::string_view pem);

class CertificateAuthority {
 public:
  /// A new one for `federation`, for ten years.
  static CertificateAuthority create(const std::string& federation);
  /// From `folder`/authority.pem and authority.key, as save() left them. Throws Error.
  static CertificateAuthority load(const std::filesystem::path& folder);
  /// Where authority.key is, authority.pem is, too, whenever this is killed.
  void save(const std::filesystem::path& folder) const;

  /// Writes authority.pem, certificate.pem and key.pem, a new key, into `folder`; returns the certificate's
  /// info. `name` is kCoordinatorName (for servers) or a site's (for clients). Where certificate.pem is, the
  /// rest is, and before() has returned, whenever this is killed.
  CertificateInfo issue(const std::filesystem::path& folder, const std::string& name, int days,
                        const std::function<void(const CertificateInfo&)>& before = {}) const;

 private:
  CertificateAuthority(KeyPointer key, CertificatePointer certificate);

  KeyPointer key_;
  CertificatePointer certificate_;
};

/// What a start-up kit has for a connection.
struct Kit {
  std::string authority, certificate, key;  ///< PEM
  CertificateInfo info;

  /// Throws Error where a file is missing, is none, or others than its owner may read the key; and where the
  /// certificate has expired at `now`, in seconds since 1970.
  static Kit read(const std::filesystem::path& folder, std::int64_t now);
};

/// ECDSA with SHA-256 of a message, by a kit's key, in DER.
std::vector<std::byte> sign(const Kit& kit, std::span<const std::byte> message);
/// Whether the key that belongs to `certificate` (PEM) made that signature.
bool is_signed(std::string_view certificate, std::span<const std::byte> message,
               std::span<const std::byte> signature);
/// Throws Error unless `authority` (PEM) signed the certificate, it holds now, and it is that of `site`.
void check_site_certificate(std::string_view certificate, std::string_view authority, std::string_view site);

/// The certificates that are let in: fingerprint -> site, one "SITE FINGERPRINT" a line.
class AllowList {
 public:
  explicit AllowList(std::filesystem::path file) : file_(std::move(file)) {}
  /// The file as it is now; throws Error naming the line that is none.
  std::map<std::string, std::string> read() const;
  bool has(const std::string& site) const;
  /// Names of all sites that are let in.
  std::set<std::string> sites() const;
  void add(const std::string& site, const std::string& fingerprint) const;
  /// Takes away all of a site's; returns how many.
  std::size_t remove(const std::string& site) const;

 private:
  void write(const std::map<std::string, std::string>& allowed) const;
  std::filesystem::path file_;
};

}  // namespace conclave
