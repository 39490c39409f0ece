#include "federated/identity.h"

#include <catch2/catch.hpp>
#include <fstream>

#include "core/error.h"
#include "tests/data/temporary_directory.h"

using namespace conclave;

TEST_CASE("a kit has what its certificate says, and a key for its owner alone") {
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

TEST_CASE("a kit has its certificate once it has all else, also where it is renewed") {
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

TEST_CASE("an authority goes on where it was saved, and not with another's key") {
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

TEST_CASE("names that do not fit a line or a file are refused") {
  const TemporaryDirectory folder;
  const std::filesystem::path at = folder.path();
  const CertificateAuthority authority = CertificateAuthority::create("hospitals");
  for (const char* name : {"", "a b", "../a", "a\n", "a.b"})
    CHECK_THROWS_WITH(authority.issue(at / "x", name, 1), Catch::Contains("cannot be a site's name"));
}

TEST_CASE("the list of those let in is what its lines say") {
  const TemporaryDirectory folder;
  const std::filesystem::path at = folder.path();
  const AllowList list(at / "sites.txt");
  CHECK_THROWS_WITH(list.read(), Catch::Contains("cannot be read"));
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
}

TEST_CASE("what a site signs is known by its certificate, which is known by its authority") {
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
