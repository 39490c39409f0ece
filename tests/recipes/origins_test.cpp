#include "recipes/service/origins.h"

#include <catch2/catch.hpp>

#include "core/error.h"

namespace conclave::service {
namespace {

TEST_CASE("a local service is asked only under its own names", "[service]") {
  const Origins origins({"models.example.org"}, "127.0.0.1");
  for (const char* host : {"localhost", "LocalHost:8080", "127.0.0.1:1", "[::1]", "[::1]:8080", "",
                           "models.example.org", "MODELS.example.org:443"})
    CHECK(origins.names(host));
  for (const char* host : {"evil.example", "evil.example:8080", "localhost.evil.example", "127.0.0.1.evil",
                           "[::2]:8080", "[::1", "example.org", ":80"})
    CHECK_FALSE(origins.names(host));
  CHECK(Origins({}, "127.0.0.5").names("127.0.0.5:80"));
  CHECK(Origins({}, "::1").names("[::1]:80"));
  for (const char* wrong : {"", "http://a.example", "a.example:80", "a.example/b"})
    CHECK_THROWS_AS(Origins({wrong}, "127.0.0.1"), Error);
}

TEST_CASE("pages of other sites are told apart from the service's own", "[service]") {
  const Origins origins({"models.example.org"}, "127.0.0.1");
  const auto elsewhere = [&](const char* host, const char* origin, const char* site = "") {
    return origins.is_elsewhere({.host = host, .origin = origin, .fetch_site = site});
  };
  CHECK_FALSE(elsewhere("localhost:8080", ""));  // not a browser
  CHECK_FALSE(elsewhere("localhost:8080", "http://localhost:8080", "same-origin"));
  CHECK_FALSE(elsewhere("Some.example", "https://some.example"));
  CHECK_FALSE(elsewhere("some.example:443", "https://some.example"));
  CHECK_FALSE(elsewhere("some.example:80", "http://some.example"));
  CHECK_FALSE(elsewhere("127.0.0.1:8080", "https://models.example.org", "same-origin"));  // behind a proxy
  CHECK(elsewhere("localhost:8080", "", "cross-site"));
  CHECK(elsewhere("localhost:8080", "null"));
  CHECK(elsewhere("localhost:8080", "http://localhost:8081", "same-site"));
  CHECK(elsewhere("localhost:8080", "http://localhost"));
  CHECK(elsewhere("some.example:80", "https://some.example"));
  CHECK(elsewhere("localhost:8080", "http://evil.example"));
}

}  // namespace
}  // namespace conclave::service
