#include "federated/identity.h"

#include <fmt/format.h>
#include <openssl/bio.h>
#include <openssl/ec.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/rand.h>
#include <openssl/x509_vfy.h>
#include <openssl/x509v3.h>
#include <sys/stat.h>

#include <algorithm>
#include <ctime>
#include <sstream>

#include "core/durable_file.h"
#include "core/error.h"
#include "core/file.h"
#include "federated/sha256.h"

namespace conclave {
namespace {

constexpr int kAuthorityDays = 3650;
constexpr std::int64_t kNoticeDays = 14, kDaySeconds = 86400;
constexpr std::size_t kMostBytes = 64 * 1024;  // of a PEM file
constexpr std::size_t kMostListBytes = std::size_t{16} << 20;

using BioPointer = std::unique_ptr<BIO, Freed<BIO_free_all>>;

// OpenSSL's first reason for the failure of the last call.
std::string reason() {
  char text[256];
  ERR_error_string_n(ERR_get_error(), text, sizeof text);
  ERR_clear_error();
  return text;
}

void expect(bool done, std::string_view what) { require(done, "{}: {}", what, done ? "" : reason()); }

template <class Write>
std::string pem(Write write) {
  const BioPointer bio(BIO_new(BIO_s_mem()));
  expect(bio && write(bio.get()) == 1, "writing PEM");
  char* data = nullptr;
  const long size = BIO_get_mem_data(bio.get(), &data);
  return {data, static_cast<std::size_t>(size)};
}

std::string pem_of(EVP_PKEY* key) {
  return pem([&](BIO* bio) {
    return PEM_write_bio_PKCS8PrivateKey(bio, key, nullptr, nullptr, 0, nullptr, nullptr);
  });
}
std::string pem_of(X509* certificate) {
  return pem([&](BIO* bio) { return PEM_write_bio_X509(bio, certificate); });
}

CertificatePointer certificate_from(std::string_view text) {
  const BioPointer bio(BIO_new_mem_buf(text.data(), static_cast<int>(text.size())));
  CertificatePointer certificate(PEM_read_bio_X509(bio.get(), nullptr, nullptr, nullptr));
  expect(certificate != nullptr, "not a certificate in PEM");
  return certificate;
}

std::string read_kit(const std::filesystem::path& path, std::size_t most = kMostBytes) {
  return read_file(path.string(), "`conclave federate provision` makes start-up kits", most);
}

KeyPointer new_key() {
  KeyPointer key(EVP_EC_gen("P-256"));
  expect(key != nullptr, "making a key");
  return key;
}

void set_name(X509_NAME* name, const std::string& federation, const std::string& common) {
  const auto add = [&](const char* field, const std::string& value) {
    expect(X509_NAME_add_entry_by_txt(name, field, MBSTRING_UTF8,
                                      reinterpret_cast<const unsigned char*>(value.data()),
                                      static_cast<int>(value.size()), -1, 0) == 1,
           "naming a certificate");
  };
  add("O", federation);
  add("CN", common);
}

void extend(X509* certificate, X509* issuer, int kind, const std::string& value) {
  X509V3_CTX context;
  X509V3_set_ctx(&context, issuer, certificate, nullptr, nullptr, 0);
  X509_EXTENSION* extension = X509V3_EXT_conf_nid(nullptr, &context, kind, value.c_str());
  expect(extension != nullptr, "extending a certificate");
  const int added = X509_add_ext(certificate, extension, -1);
  X509_EXTENSION_free(extension);
  expect(added == 1, "extending a certificate");
}

// The issuer and the signature are still missing.
CertificatePointer new_certificate(EVP_PKEY* key, const std::string& federation, const std::string& name,
                                   int days) {
  CertificatePointer certificate(X509_new());
  unsigned char serial[16];
  expect(certificate && RAND_bytes(serial, sizeof serial) == 1, "making a certificate");
  serial[0] &= 0x7f;  // positive
  BIGNUM* number = BN_bin2bn(serial, sizeof serial, nullptr);
  BN_to_ASN1_INTEGER(number, X509_get_serialNumber(certificate.get()));
  BN_free(number);
  X509_set_version(certificate.get(), X509_VERSION_3);
  X509_gmtime_adj(X509_getm_notBefore(certificate.get()), -300);  // because clocks differ
  X509_gmtime_adj(X509_getm_notAfter(certificate.get()), 86400L * days);
  X509_set_pubkey(certificate.get(), key);
  set_name(X509_get_subject_name(certificate.get()), federation, name);
  return certificate;
}

KeyPointer key_from(const std::string& text) {
  const BioPointer bio(BIO_new_mem_buf(text.data(), static_cast<int>(text.size())));
  return KeyPointer(PEM_read_bio_PrivateKey(bio.get(), nullptr, nullptr, nullptr));
}

bool is_on_p256(EVP_PKEY* key) {
  char group[64] = "";
  return EVP_PKEY_is_a(key, "EC") == 1 && EVP_PKEY_get_group_name(key, group, sizeof group, nullptr) == 1 &&
         std::string_view(group) == SN_X9_62_prime256v1;
}

void expect_site_name(const std::string& name) {
  require(is_site_name(name) && name != kCoordinatorName,
          "\"{}\" cannot be a site's name: letters, digits, - and _, at most 63 of them, and not "
          "\"coordinator\"",
          name);
}

std::string organization(X509* certificate) {
  char text[256] = "";
  X509_NAME_get_text_by_NID(X509_get_subject_name(certificate), NID_organizationName, text, sizeof text);
  return text;
}

}  // namespace

bool is_site_name(std::string_view name) {
  return !name.empty() && name.size() <= 63 && std::ranges::all_of(name, [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '_';
  });
}

CertificateInfo certificate_info(std::string_view pem) {
  const CertificatePointer certificate = certificate_from(pem);
  CertificateInfo info;
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned size = 0;
  expect(X509_digest(certificate.get(), EVP_sha256(), digest, &size) == 1, "a certificate's fingerprint");
  for (unsigned i = 0; i < size; ++i) info.fingerprint += fmt::format("{:02x}", digest[i]);
  char name[256] = "";
  X509_NAME_get_text_by_NID(X509_get_subject_name(certificate.get()), NID_commonName, name, sizeof name);
  info.name = name;
  std::tm end{};
  expect(ASN1_TIME_to_tm(X509_get0_notAfter(certificate.get()), &end) == 1, "a certificate's end");
  info.not_after = timegm(&end);
  return info;
}

std::string renewal_of(const std::string& name) {
  return fmt::format("`conclave federate provision --renew {}`{}", name,
                     name == kCoordinatorName ? "" : ", with --request if the site made its own key");
}

std::string refusal_reason(const CertificateInfo& info, std::int64_t now) {
  if (info.not_after > now)
    return "it is not in the list of those let in, as after it was revoked or renewed";
  const auto end = static_cast<std::time_t>(info.not_after);
  std::tm utc{};
  gmtime_r(&end, &utc);
  char date[32];
  std::strftime(date, sizeof date, "%Y-%m-%d %H:%M UTC", &utc);
  return fmt::format("it expired on {}", date);
}

std::optional<std::string> ExpiryNotice::due(std::int64_t now) {
  const std::int64_t left = info_.not_after - now;
  if (left > kNoticeDays * kDaySeconds || (told_ && now - *told_ < kDaySeconds)) return std::nullopt;
  told_ = now;
  const std::string remedy =
      fmt::format("get another, and start this again with it: {}", renewal_of(info_.name));
  if (left <= 0) return fmt::format("warning: the certificate of \"{}\" has expired; {}", info_.name, remedy);
  const std::int64_t days = left / kDaySeconds;
  return fmt::format("warning: the certificate of \"{}\" ends {}; {}", info_.name,
                     days == 0 ? "within a day" : fmt::format("in {} day{}", days, days == 1 ? "" : "s"),
                     remedy);
}

CertificateRequest CertificateRequest::read(const std::filesystem::path& file) {
  CertificateRequest request;
  request.pem = read_file(file, "`conclave federate request`, at a site, makes one", kMostBytes);
  try {
    const BioPointer bio(BIO_new_mem_buf(request.pem.data(), static_cast<int>(request.pem.size())));
    const RequestPointer asked(PEM_read_bio_X509_REQ(bio.get(), nullptr, nullptr, nullptr));
    expect(asked != nullptr, "not a request for a certificate in PEM");
    char name[256] = "";
    X509_NAME_get_text_by_NID(X509_REQ_get_subject_name(asked.get()), NID_commonName, name, sizeof name);
    request.name = name;
    expect_site_name(request.name);
    request.key.reset(X509_REQ_get_pubkey(asked.get()));
    require(request.key && is_on_p256(request.key.get()),
            "its key is not an ECDSA key on P-256, as `conclave federate request` makes");
    require(X509_REQ_verify(asked.get(), request.key.get()) == 1,
            "its signature does not fit its key: the request was changed on its way, or is not by the key's "
            "owner; have it sent again");
  } catch (const Error& error) {
    ERR_clear_error();
    fail("{}: {}", file.string(), error.what());
  }
  unsigned char* der = nullptr;
  const int size = i2d_PUBKEY(request.key.get(), &der);
  expect(size > 0, "a key's fingerprint");
  request.key_sha256 = sha256({reinterpret_cast<const char*>(der), static_cast<std::size_t>(size)});
  OPENSSL_free(der);
  return request;
}

CertificateRequest request_certificate(const std::filesystem::path& folder, const std::string& name) {
  expect_site_name(name);
  create_durable_directories(folder);
  const std::filesystem::path key_file = folder / "key.pem", file = folder / "request.pem";
  const bool anew = !std::filesystem::exists(key_file);
  const KeyPointer key = anew ? new_key() : key_from(read_kit(key_file));
  expect(key != nullptr, key_file.string());
  const RequestPointer request(X509_REQ_new());
  expect(request && X509_REQ_set_pubkey(request.get(), key.get()) == 1, "making a request");
  expect(X509_NAME_add_entry_by_txt(X509_REQ_get_subject_name(request.get()), "CN", MBSTRING_UTF8,
                                    reinterpret_cast<const unsigned char*>(name.data()),
                                    static_cast<int>(name.size()), -1, 0) == 1 &&
             X509_REQ_sign(request.get(), key.get(), EVP_sha256()) > 0,
         "making a request");
  if (anew) replace_file(key_file, pem_of(key.get()), 0600);
  replace_file(file, pem([&](BIO* bio) { return PEM_write_bio_X509_REQ(bio, request.get()); }), 0644);
  return CertificateRequest::read(file);
}

CertificateAuthority::CertificateAuthority(KeyPointer key, CertificatePointer certificate)
    : key_(std::move(key)), certificate_(std::move(certificate)) {}

CertificateAuthority CertificateAuthority::create(const std::string& federation) {
  KeyPointer key = new_key();
  CertificatePointer certificate = new_certificate(key.get(), federation, "authority", kAuthorityDays);
  X509* const self = certificate.get();
  X509_set_issuer_name(self, X509_get_subject_name(self));
  extend(self, self, NID_basic_constraints, "critical,CA:TRUE,pathlen:0");
  extend(self, self, NID_key_usage, "critical,keyCertSign");
  extend(self, self, NID_subject_key_identifier, "hash");
  expect(X509_sign(self, key.get(), EVP_sha256()) > 0, "signing a certificate");
  return {std::move(key), std::move(certificate)};
}

CertificateAuthority CertificateAuthority::load(const std::filesystem::path& folder) {
  KeyPointer key = key_from(read_kit(folder / "authority.key"));
  expect(key != nullptr, (folder / "authority.key").string());
  CertificatePointer certificate = certificate_from(read_kit(folder / "authority.pem"));
  expect(X509_check_private_key(certificate.get(), key.get()) == 1, (folder / "authority.key").string());
  return {std::move(key), std::move(certificate)};
}

void CertificateAuthority::save(const std::filesystem::path& folder) const {
  create_durable_directories(folder);
  replace_file(folder / "authority.pem", pem_of(certificate_.get()), 0644);
  replace_file(folder / "authority.key", pem_of(key_.get()),
               0600);  // written last: if it exists, authority.pem does, too
}

CertificatePointer CertificateAuthority::signed_for(EVP_PKEY* key, const std::string& name, int days) const {
  const bool server = name == kCoordinatorName;
  if (!server) expect_site_name(name);
  CertificatePointer made = new_certificate(key, organization(certificate_.get()), name, days);
  X509* const certificate = made.get();
  X509_set_issuer_name(certificate, X509_get_subject_name(certificate_.get()));
  extend(certificate, certificate_.get(), NID_basic_constraints, "critical,CA:FALSE");
  extend(certificate, certificate_.get(), NID_key_usage, "critical,digitalSignature");
  extend(certificate, certificate_.get(), NID_ext_key_usage, server ? "serverAuth" : "clientAuth");
  extend(certificate, certificate_.get(), NID_subject_alt_name, "DNS:" + name);
  extend(certificate, certificate_.get(), NID_authority_key_identifier, "keyid");
  expect(X509_sign(certificate, key_.get(), EVP_sha256()) > 0, "signing a certificate");
  return made;
}

CertificateInfo CertificateAuthority::issue(const std::filesystem::path& folder, const std::string& name,
                                            int days,
                                            const std::function<void(const CertificateInfo&)>& before) const {
  const KeyPointer key = new_key();
  const CertificatePointer certificate = signed_for(key.get(), name, days);
  create_durable_directories(folder);
  std::filesystem::remove(folder / "certificate.pem");  // an older one, which would not match the new key
  replace_file(folder / "key.pem", pem_of(key.get()), 0600);
  return finish(folder, certificate.get(), before);
}

CertificateInfo CertificateAuthority::issue(const std::filesystem::path& folder,
                                            const CertificateRequest& request, int days,
                                            const std::function<void(const CertificateInfo&)>& before) const {
  const CertificatePointer certificate = signed_for(request.key.get(), request.name, days);
  create_durable_directories(folder);
  replace_file(folder / "request.pem", request.pem, 0644);
  std::filesystem::remove(folder / "certificate.pem");
  std::filesystem::remove(folder / "key.pem");  // an older one
  return finish(folder, certificate.get(), before);
}

CertificateInfo CertificateAuthority::finish(
    const std::filesystem::path& folder, X509* certificate,
    const std::function<void(const CertificateInfo&)>& before) const {
  const std::string text = pem_of(certificate);
  const CertificateInfo info = certificate_info(text);
  replace_file(folder / "authority.pem", pem_of(certificate_.get()), 0644);
  if (before) before(info);
  replace_file(folder / "certificate.pem", text, 0644);
  return info;
}

Kit Kit::read(const std::filesystem::path& folder, std::int64_t now) {
  Kit kit{.authority = read_kit(folder / "authority.pem"),
          .certificate = read_kit(folder / "certificate.pem"),
          .key = read_kit(folder / "key.pem"),
          .info = {}};
  const std::string name = (folder / "key.pem").string();
  struct stat status {};
  require(stat(name.c_str(), &status) == 0 && (status.st_mode & 077) == 0,
          "{}: others than its owner may read it; chmod 600 it, or have the site's kit renewed if they did",
          name);
  try {
    kit.info = certificate_info(kit.certificate);
    certificate_info(kit.authority);
    const KeyPointer key = key_from(kit.key);
    require(
        key && X509_check_private_key(certificate_from(kit.certificate).get(), key.get()) == 1,
        "key.pem is not the key that certificate.pem was made for; put back the one that it was, or ask for "
        "another certificate by `conclave federate request`");
  } catch (const Error& error) {
    fail("{}: {}", folder.string(), error.what());
  }
  require(kit.info.not_after > now, "{}: its certificate has expired; get another: {}", folder.string(),
          renewal_of(kit.info.name));
  return kit;
}

namespace {

const unsigned char* octets(std::span<const std::byte> bytes) {
  return reinterpret_cast<const unsigned char*>(bytes.data());
}

}  // namespace

std::vector<std::byte> sign(const Kit& kit, std::span<const std::byte> message) {
  const KeyPointer key = key_from(kit.key);
  expect(key != nullptr, "key.pem");
  const DigestPointer context(EVP_MD_CTX_new());
  std::size_t size = static_cast<std::size_t>(EVP_PKEY_get_size(key.get()));
  std::vector<std::byte> signature(size);
  expect(EVP_DigestSignInit(context.get(), nullptr, EVP_sha256(), nullptr, key.get()) == 1 &&
             EVP_DigestSign(context.get(), reinterpret_cast<unsigned char*>(signature.data()), &size,
                            octets(message), message.size()) == 1,
         "signing");
  signature.resize(size);
  return signature;
}

bool is_signed(std::string_view certificate, std::span<const std::byte> message,
               std::span<const std::byte> signature) {
  const CertificatePointer read = certificate_from(certificate);
  const DigestPointer context(EVP_MD_CTX_new());
  EVP_PKEY* const key = X509_get0_pubkey(read.get());
  const bool holds =
      key != nullptr && EVP_DigestVerifyInit(context.get(), nullptr, EVP_sha256(), nullptr, key) == 1 &&
      EVP_DigestVerify(context.get(), octets(signature), signature.size(), octets(message), message.size()) ==
          1;
  ERR_clear_error();
  return holds;
}

void check_site_certificate(std::string_view certificate, std::string_view authority, std::string_view site) {
  const CertificatePointer read = certificate_from(certificate), root = certificate_from(authority);
  const std::unique_ptr<X509_STORE, decltype(&X509_STORE_free)> store(X509_STORE_new(), X509_STORE_free);
  const std::unique_ptr<X509_STORE_CTX, decltype(&X509_STORE_CTX_free)> context(X509_STORE_CTX_new(),
                                                                                X509_STORE_CTX_free);
  expect(X509_STORE_add_cert(store.get(), root.get()) == 1 &&
             X509_STORE_CTX_init(context.get(), store.get(), read.get(), nullptr) == 1 &&
             X509_STORE_CTX_set_purpose(context.get(), X509_PURPOSE_SSL_CLIENT) == 1,
         "looking at a certificate");
  const bool holds = X509_verify_cert(context.get()) == 1;
  ERR_clear_error();
  require(holds, "the certificate of site '{}' is not valid: {}", site,
          X509_verify_cert_error_string(X509_STORE_CTX_get_error(context.get())));
  const std::string name = certificate_info(certificate).name;
  require(name == site, "the certificate of site '{}' is that of '{}'", site, name);
}

std::map<std::string, std::string> AllowList::read() const {
  std::istringstream lines(read_kit(file_, kMostListBytes));
  std::map<std::string, std::string> allowed;
  std::string line;
  require(
      lines.peek() == '#',
      "{}: does not begin with a line of comment, as `conclave federate provision` writes one; it may have "
      "been cut short",
      file_.string());
  for (int number = 1; std::getline(lines, line); ++number) {
    if (line.empty() || line.front() == '#') continue;
    const std::size_t space = line.find(' ');
    const std::string site = line.substr(0, space);
    const std::string fingerprint = space == std::string::npos ? "" : line.substr(space + 1);
    require(is_site_name(site) && fingerprint.size() == 64 &&
                fingerprint.find_first_not_of("0123456789abcdef") == std::string::npos,
            "{}:{}: expected a site's name and the 64 digits of its certificate's SHA-256", file_.string(),
            number);
    allowed.emplace(fingerprint, site);
  }
  return allowed;
}

void AllowList::write(const std::map<std::string, std::string>& allowed) const {
  std::string text =
      "# The certificates that the coordinator lets in; it reads this anew at every connection.\n";
  for (const auto& [fingerprint, site] : allowed) text += fmt::format("{} {}\n", site, fingerprint);
  replace_file(file_, text, 0644);
}

void AllowList::add(const std::string& site, const std::string& fingerprint) const {
  auto allowed = std::filesystem::exists(file_) ? read() : std::map<std::string, std::string>();
  allowed.emplace(fingerprint, site);
  write(allowed);
}

bool AllowList::has(const std::string& site) const { return sites().contains(site); }

std::set<std::string> AllowList::sites() const {
  std::set<std::string> names;
  for (const auto& [fingerprint, site] : read()) names.insert(site);
  return names;
}

std::size_t AllowList::remove(const std::string& site) const {
  auto allowed = read();
  const std::size_t removed = std::erase_if(allowed, [&](const auto& entry) { return entry.second == site; });
  write(allowed);
  return removed;
}

}  // namespace conclave
