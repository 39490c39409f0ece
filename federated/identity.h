// Identities in a federation. One authority signs a certificate for the coordinator and one for each site
// (ECDSA P-256, SHA-256, X.509 v3). A connection is accepted only with such a certificate, over TLS 1.3. The
// authority's signature alone is not enough: the coordinator also has a list of accepted certificates, by
// fingerprint. Removing a line revokes a certificate; adding a line accepts a renewed one.
//
// A start-up kit is a folder: authority.pem, certificate.pem, key.pem (readable by its owner alone), and, for
// the coordinator, sites.txt, the list. A site may make its key itself and have the authority sign a request
// for it: then nobody else ever has the key.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <optional>
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

/// What a certificate in PEM says: SHA-256 of its DER form in hexadecimal; its subject's common name; its
/// expiry in seconds since 1970. certificate_info() throws Error if the text is not a certificate.
struct CertificateInfo {
  std::string fingerprint, name;
  std::int64_t not_after = 0;
};
CertificateInfo certificate_info(std::string_view pem);

/// What a site asks the authority for (PKCS #10).
struct CertificateRequest {
  std::string pem, name;
  std::string key_sha256;  ///< of its public key's DER form, in hexadecimal
  KeyPointer key;          ///< the public one

  /// Throws Error unless the file asks for a certificate in the name of a site, for an ECDSA key on P-256
  /// that signed the request.
  static CertificateRequest read(const std::filesystem::path& file);
};

/// At a site: writes request.pem into `folder`, for the key in key.pem. Makes key.pem if there is none.
CertificateRequest request_certificate(const std::filesystem::path& folder, const std::string& name);

/// For messages: the command that renews a certificate, for the person who provisions the federation.
std::string renewal_of(const std::string& name);

/// Why a coordinator refuses a certificate, at `now`: "it expired on DATE", or it is not in the list of those
/// let in.
std::string refusal_reason(const CertificateInfo& info, std::int64_t now);

/// Warns once a day, from two weeks before a certificate expires.
class ExpiryNotice {
 public:
  explicit ExpiryNotice(CertificateInfo info) : info_(std::move(info)) {}
  /// The warning that is due at `now`, in seconds since 1970; nothing if none is due, or if the last one is
  /// less than a day old.
  std::optional<std::string> due(std::int64_t now);

 private:
  CertificateInfo info_;
  std::optional<std::int64_t> told_;
};

class CertificateAuthority {
 public:
  /// A new authority for `federation`, valid for ten years.
  static CertificateAuthority create(const std::string& federation);
  /// Reads `folder`/authority.pem and authority.key, as save() wrote them. Throws Error if a file is missing
  /// or malformed, or if the two do not belong together.
  static CertificateAuthority load(const std::filesystem::path& folder);
  /// Writes authority.key last: if it exists, authority.pem does, too, even after a crash.
  void save(const std::filesystem::path& folder) const;

  /// Makes a key and a certificate; writes authority.pem, certificate.pem and key.pem into `folder`; returns
  /// the certificate's info. `name` is kCoordinatorName (server certificate) or a site's name (client
  /// certificate). certificate.pem is written last, after before() has returned: if it exists, the other
  /// files do, too, even after a crash.
  CertificateInfo issue(const std::filesystem::path& folder, const std::string& name, int days,
                        const std::function<void(const CertificateInfo&)>& before = {}) const;
  /// Issues a certificate for the site and key that the request names. Writes request.pem in place of
  /// key.pem.
  CertificateInfo issue(const std::filesystem::path& folder, const CertificateRequest& request, int days,
                        const std::function<void(const CertificateInfo&)>& before = {}) const;

 private:
  CertificateAuthority(KeyPointer key, CertificatePointer certificate);
  CertificatePointer signed_for(EVP_PKEY* key, const std::string& name, int days) const;
  CertificateInfo finish(const std::filesystem::path& folder, X509* certificate,
                         const std::function<void(const CertificateInfo&)>& before) const;

  KeyPointer key_;
  CertificatePointer certificate_;
};

/// The parts of a start-up kit that a connection needs.
struct Kit {
  std::string authority, certificate, key;  ///< PEM
  CertificateInfo info;

  /// Throws Error if a file is missing or malformed, if others than its owner can read the key, if the key
  /// does not belong to the certificate, or if the certificate has expired at `now`, in seconds since 1970.
  static Kit read(const std::filesystem::path& folder, std::int64_t now);
};

/// Signature of a message by the kit's key: ECDSA with SHA-256, in DER.
std::vector<std::byte> sign(const Kit& kit, std::span<const std::byte> message);
/// Whether `signature` was made for `message` by the key that belongs to `certificate` (PEM).
bool is_signed(std::string_view certificate, std::span<const std::byte> message,
               std::span<const std::byte> signature);
/// Throws Error unless `authority` (PEM) signed the certificate for a client of TLS, the certificate is valid
/// now, and its name is `site`.
void check_site_certificate(std::string_view certificate, std::string_view authority, std::string_view site);

/// The accepted certificates: fingerprint -> site. The file has a line of comment, and then one line "SITE
/// FINGERPRINT" for each. An empty file, as some editors leave for a moment, is not taken to accept nobody.
class AllowList {
 public:
  explicit AllowList(std::filesystem::path file) : file_(std::move(file)) {}
  /// Reads the current file. Throws Error if a line is malformed, naming it, or if the first is no comment.
  std::map<std::string, std::string> read() const;
  bool has(const std::string& site) const;
  /// Names of all sites that have an accepted certificate.
  std::set<std::string> sites() const;
  void add(const std::string& site, const std::string& fingerprint) const;
  /// Removes all certificates of a site; returns how many there were.
  std::size_t remove(const std::string& site) const;

 private:
  void write(const std::map<std::string, std::string>& allowed) const;
  std::filesystem::path file_;
};

}  // namespace conclave
