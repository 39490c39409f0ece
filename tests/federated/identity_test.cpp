#include "federated/identity.h"

#include <openssl/bio.h>
#include <openssl/ec.h>
#include <openssl/pem.h>
#include <openssl/rsa.h>

#include <catch2/catch.hpp>
#include <ctime>
#include <fstream>
#include <memory>

#include "core/error.h"
#include "federated/file_transfer.h"
#include "federated/secure_aggregation/agreement.h"
#include "tests/data/temporary_directory.h"

using namespace conclave;

TEST_CASE("a kit has the issued certificate, and only its owner can read the key") {
  const TemporaryDirectory folder;
  const std::filesystem::path at = folder.path();
  const CertificateAuthority authority = CertificateAuthority::create("hospitals");
  const CertificateInfo issued = authority.issue(at / "north", "north", 90);
  const Kit kit = Kit::read(at / "north", 0);
  CHECK(kit.info.name == "north");
  CHECK(kit.info.fingerprint == issued.fingerprint);
  CHECK(kit.info.fingerprint.size() == 64);
  CHECK((std::filesystem::status(at / "north/key.pem").permissions() &
         (std::filesystem::perms::group_all | std::filesystem::perms::others_all)) ==
        std::filesystem::perms::none);

  CHECK_THROWS_WITH(Kit::read(at / "north", kit.info.not_after + 1),
                    Catch::Contains("expired") && Catch::Contains("--renew north"));
  std::filesystem::permissions(at / "north/key.pem", std::filesystem::perms::others_read,
                               std::filesystem::perm_options::add);
  CHECK_THROWS_WITH(Kit::read(at / "north", 0), Catch::Contains("chmod 600"));
}

TEST_CASE("a kit's certificate is written last, also at a renewal") {
  const TemporaryDirectory folder;
  const std::filesystem::path at = folder.path();
  const CertificateAuthority authority = CertificateAuthority::create("hospitals");
  for (int i = 0; i < 2; ++i) {
    std::string told;
    const CertificateInfo issued = authority.issue(at, "north", 90, [&](const CertificateInfo& info) {
      CHECK(std::filesystem::exists(at / "key.pem"));
      CHECK(std::filesystem::exists(at / "authority.pem"));
      CHECK_FALSE(std::filesystem::exists(at / "certificate.pem"));
      told = info.fingerprint;
    });
    CHECK(told == issued.fingerprint);
    CHECK(Kit::read(at, 0).info.fingerprint == told);
  }
}

TEST_CASE("an authority is loaded as saved and refused with another authority's key") {
  const TemporaryDirectory folder;
  const std::filesystem::path at = folder.path();
  CertificateAuthority::create("one").save(at / "one");
  CertificateAuthority::create("other").save(at / "other");
  const CertificateInfo first = CertificateAuthority::load(at / "one").issue(at / "a", "a", 1);
  const CertificateInfo second = CertificateAuthority::load(at / "one").issue(at / "b", "b", 1);
  CHECK(first.fingerprint != second.fingerprint);
  std::filesystem::copy(at / "one/authority.key", at / "other/authority.key",
                        std::filesystem::copy_options::overwrite_existing);
  CHECK_THROWS_AS(CertificateAuthority::load(at / "other"), Error);
  CHECK_THROWS_WITH(CertificateAuthority::load(at), Catch::Contains("provision"));
}

TEST_CASE("a refused certificate has expired or is not in the list, and the reason says which") {
  const CertificateInfo info{.fingerprint = "", .name = "north", .not_after = 100 * 86400};
  CHECK(refusal_reason(info, info.not_after) == "it expired on 1970-04-11 00:00 UTC");
  CHECK_THAT(refusal_reason(info, info.not_after - 1), Catch::Contains("not in the list"));
}

TEST_CASE("ExpiryNotice warns once a day from two weeks before the end") {
  constexpr std::int64_t day = 86400, end = 100 * day;
  ExpiryNotice notice({.fingerprint = "", .name = "north", .not_after = end});
  CHECK_FALSE(notice.due(end - 14 * day - 1));
  CHECK_THAT(notice.due(end - 14 * day).value_or(""),
             Catch::Contains("\"north\" ends in 14 days") && Catch::Contains("provision --renew north"));
  CHECK_FALSE(notice.due(end - 13 * day - 1));
  CHECK_THAT(notice.due(end - 13 * day).value_or(""), Catch::Contains("ends in 13 days"));
  CHECK_THAT(notice.due(end - day).value_or(""), Catch::Contains("ends in 1 day;"));
  CHECK_THAT(ExpiryNotice({"", "north", end}).due(end - 1).value_or(""),
             Catch::Contains("ends within a day") && Catch::Contains("--request"));
  CHECK_THAT(notice.due(end).value_or(""), Catch::Contains("has expired"));
}

namespace {

// Writes a certificate request for the public key `key`, signed by `signer`.
void write_request(const std::filesystem::path& file, EVP_PKEY* key, EVP_PKEY* signer,
                   const std::string& name) {
  const RequestPointer request(X509_REQ_new());
  REQUIRE(X509_REQ_set_pubkey(request.get(), key) == 1);
  REQUIRE(X509_NAME_add_entry_by_txt(X509_REQ_get_subject_name(request.get()), "CN", MBSTRING_UTF8,
                                     reinterpret_cast<const unsigned char*>(name.data()),
                                     static_cast<int>(name.size()), -1, 0) == 1);
  REQUIRE(X509_REQ_sign(request.get(), signer, EVP_sha256()) > 0);
  const std::unique_ptr<BIO, Freed<BIO_free_all>> out(BIO_new_file(file.c_str(), "w"));
  REQUIRE(PEM_write_bio_X509_REQ(out.get(), request.get()) == 1);
}

}  // namespace

TEST_CASE("a kit issued by request has no key, and fits the key at the site") {
  const TemporaryDirectory folder;
  const std::filesystem::path at = folder.path();
  const CertificateAuthority authority = CertificateAuthority::create("hospitals");
  const CertificateRequest asked = request_certificate(at / "site", "north");
  CHECK((std::filesystem::status(at / "site/key.pem").permissions() & std::filesystem::perms::mask) ==
        (std::filesystem::perms::owner_read | std::filesystem::perms::owner_write));
  authority.issue(at / "kit", "north", 90);  // writes a key.pem, which the next call must remove
  const CertificateRequest request = CertificateRequest::read(at / "site/request.pem");
  CHECK(request.name == "north");
  CHECK(request.key_sha256 == asked.key_sha256);
  std::string told;
  const CertificateInfo issued =
      authority.issue(at / "kit", request, 90, [&](const CertificateInfo& info) { told = info.fingerprint; });
  CHECK(told == issued.fingerprint);
  CHECK(issued.name == "north");
  CHECK_FALSE(std::filesystem::exists(at / "kit/key.pem"));
  for (const char* file : {"authority.pem", "certificate.pem"})
    std::filesystem::copy(at / "kit" / file, at / "site" / file);
  const Kit kit = Kit::read(at / "site", 0);
  CHECK(kit.info.fingerprint == issued.fingerprint);
  CHECK_NOTHROW(check_site_certificate(kit.certificate, kit.authority, "north"));

  CHECK(request_certificate(at / "site", "north").key_sha256 == asked.key_sha256);  // a renewal keeps the key
  CHECK(request_certificate(at / "new", "north").key_sha256 != asked.key_sha256);
  std::filesystem::copy(at / "new/key.pem", at / "site/key.pem",
                        std::filesystem::copy_options::overwrite_existing);
  CHECK_THROWS_WITH(Kit::read(at / "site", 0), Catch::Contains("is not the key that certificate.pem"));
  CHECK_THROWS_WITH(request_certificate(at / "new", "coordinator"),
                    Catch::Contains("cannot be a site's name"));
}

TEST_CASE("a certificate request without a site's name or a proof of the key is refused") {
  const TemporaryDirectory folder;
  const std::filesystem::path file = std::filesystem::path(folder.path()) / "request.pem";
  const KeyPointer one(EVP_EC_gen("P-256")), other(EVP_EC_gen("P-256")), longer(EVP_EC_gen("P-384"));
  const KeyPointer rsa(EVP_RSA_gen(2048));
  const auto is_refused = [&](const std::string& why) {
    CHECK_THROWS_WITH(CertificateRequest::read(file),
                      Catch::StartsWith(file.string()) && Catch::Contains(why));
  };
  is_refused("conclave federate request");
  write_request(file, one.get(), one.get(), "north");
  CHECK(CertificateRequest::read(file).name == "north");
  write_request(file, one.get(), other.get(), "north");
  is_refused("its signature does not fit its key");
  write_request(file, rsa.get(), rsa.get(), "north");
  is_refused("P-256");
  write_request(file, longer.get(), longer.get(), "north");
  is_refused("P-256");
  for (const char* name : {"coordinator", "../north", "north south"}) {
    write_request(file, one.get(), one.get(), name);
    is_refused("cannot be a site's name");
  }
  write_request(file, one.get(), one.get(), "north");
  std::ofstream(file, std::ios::app) << std::string(64 << 10, '\n');
  is_refused("longer than 64 KiB");
  std::ofstream(file) << "none";
  is_refused("not a request");
}

TEST_CASE("certificates of as many sites as there may be fit into the terms of a secure sum") {
  const TemporaryDirectory folder;
  const std::string name(63, 'w');
  CertificateAuthority::create(std::string(64, 'f')).issue(folder.path(), name, 1);
  const std::string certificate = Kit::read(folder.path(), std::time(nullptr)).certificate;
  constexpr std::size_t kAround = 16;  // bytes around a name and a certificate
  CHECK(secure_aggregation::kMostSites * (certificate.size() + name.size() + kAround) < kChunkBytes);
}

TEST_CASE("a certificate for an invalid site name is refused") {
  const TemporaryDirectory folder;
  const std::filesystem::path at = folder.path();
  const CertificateAuthority authority = CertificateAuthority::create("hospitals");
  for (const char* name : {"", "a b", "../a", "a\n", "a.b"})
    CHECK_THROWS_WITH(authority.issue(at / "x", name, 1), Catch::Contains("cannot be a site's name"));
}

TEST_CASE("AllowList: adds, removes and reads certificates, and refuses malformed lines") {
  const TemporaryDirectory folder;
  const std::filesystem::path at = folder.path();
  const AllowList list(at / "sites.txt");
  CHECK_THROWS_WITH(list.read(), Catch::Contains("cannot be opened"));
  const std::string one(64, '1'), two(64, '2'), three(64, '3');
  list.add("north", one);
  list.add("south", two);
  list.add("north", three);  // renewed
  CHECK(list.read() == std::map<std::string, std::string>{{one, "north"}, {two, "south"}, {three, "north"}});
  CHECK(list.has("north"));
  CHECK(list.remove("north") == 2);
  CHECK_FALSE(list.has("north"));
  CHECK(list.read() == std::map<std::string, std::string>{{two, "south"}});
  std::ofstream(at / "sites.txt", std::ios::app) << "north 12\n";
  CHECK_THROWS_WITH(list.read(), Catch::Contains("sites.txt:3"));
  for (const std::string& cut : {std::string(), "north " + one + "\n"}) {
    std::ofstream(at / "sites.txt") << cut;
    CHECK_THROWS_WITH(list.read(), Catch::Contains("may have been cut short"));
  }
}

TEST_CASE("signatures are verified by certificate, and certificates by authority") {
  const TemporaryDirectory folder;
  const std::filesystem::path at = folder.path();
  const CertificateAuthority authority = CertificateAuthority::create("hospitals");
  authority.issue(at / "north", "north", 90);
  authority.issue(at / "south", "south", 90);
  authority.issue(at / "coordinator", "coordinator", 90);
  CertificateAuthority::create("hospitals").issue(at / "false", "north", 90);
  const Kit north = Kit::read(at / "north", 0), south = Kit::read(at / "south", 0);

  const std::vector<std::byte> message(100, std::byte{7}), other(100, std::byte{8});
  std::vector<std::byte> signature = sign(north, message);
  CHECK(is_signed(north.certificate, message, signature));
  CHECK(!is_signed(north.certificate, other, signature));
  CHECK(!is_signed(south.certificate, message, signature));
  CHECK(!is_signed(north.certificate, message, {}));
  signature.back() ^= std::byte{1};
  CHECK(!is_signed(north.certificate, message, signature));

  CHECK_NOTHROW(check_site_certificate(north.certificate, north.authority, "north"));
  CHECK_THROWS_WITH(check_site_certificate(south.certificate, north.authority, "north"),
                    Catch::Contains("is that of 'south'"));
  CHECK_THROWS_WITH(check_site_certificate(Kit::read(at / "false", 0).certificate, north.authority, "north"),
                    Catch::Contains("is not valid"));
  const std::string coordinator = Kit::read(at / "coordinator", 0).certificate;
  CHECK_THROWS_WITH(check_site_certificate(coordinator, north.authority, "coordinator"),
                    Catch::Contains("is not valid"));
  CHECK_THROWS_WITH(check_site_certificate("none", north.authority, "north"), Catch::Contains("PEM"));
}
