#include "recipes/service/client_address.h"

#include <arpa/inet.h>

#include <catch2/catch.hpp>

#include "core/error.h"

namespace conclave::service {
namespace {

TEST_CASE("addresses have one notation, without the port", "[service]") {
  CHECK(client_address("192.0.2.7") == "192.0.2.7");
  CHECK(client_address("192.0.2.7:443") == "192.0.2.7");
  CHECK(client_address("::ffff:192.0.2.7") == "192.0.2.7");
  CHECK(client_address("2001:DB8:0:1:0:0:0:5") == "2001:db8:0:1::5");
  CHECK(client_address("[2001:db8::1]:443") == "2001:db8::1");
  CHECK(client_address("[2001:db8::1]") == "2001:db8::1");
  for (const char* none : {"", "192.0.2", ":443", "[2001:db8::1", "[]", "unknown", "192.0.2.7 "})
    CHECK_FALSE(client_address(none));
  sockaddr_storage from{};
  auto& six = reinterpret_cast<sockaddr_in6&>(from);
  six.sin6_family = AF_INET6;
  REQUIRE(inet_pton(AF_INET6, "2001:db8:0:1:2:3:4:5", &six.sin6_addr) == 1);
  CHECK(client_address(from) == "2001:db8:0:1:2:3:4:5");
  REQUIRE(inet_pton(AF_INET6, "::ffff:192.0.2.7", &six.sin6_addr) == 1);
  CHECK(client_address(from) == "192.0.2.7");
}

TEST_CASE("IPv6 addresses with the same first 64 bits count as one client", "[service]") {
  CHECK(client_network("2001:db8:0:1:2:3:4:5") == "2001:db8:0:1::");
  CHECK(client_network("2001:db8:0:1::9") == "2001:db8:0:1::");
  CHECK(client_network("192.0.2.7") == "192.0.2.7");
}

TEST_CASE("X-Forwarded-For is trusted only from known proxies", "[service]") {
  const Proxies none({}), proxies({"10.0.0.1", "2001:db8::1"});
  CHECK(none.client_of("10.0.0.1", "192.0.2.7") == "10.0.0.1");
  CHECK(proxies.client_of("192.0.2.9", "192.0.2.7") == "192.0.2.9");
  CHECK(proxies.client_of("10.0.0.1", "192.0.2.7") == "192.0.2.7");
  CHECK(proxies.client_of("10.0.0.1", "") == "10.0.0.1");
  // A proxy appends its peer's address. Earlier entries are only what the client claims.
  CHECK(proxies.client_of("10.0.0.1", "198.51.100.1, 192.0.2.7") == "192.0.2.7");
  CHECK(proxies.client_of("10.0.0.1", "198.51.100.1,192.0.2.7 , 2001:DB8::1") == "192.0.2.7");  // two proxies
  CHECK(proxies.client_of("10.0.0.1", "192.0.2.7:80,, ") == "192.0.2.7");
  // An address near a proxy's is not a proxy.
  CHECK(proxies.client_of("10.0.0.1", "198.51.100.1, 2001:db8::99") == "2001:db8::99");
  CHECK(proxies.client_of("10.0.0.1", "10.0.0.1, 10.0.0.1") == "10.0.0.1");
  CHECK(proxies.client_of("10.0.0.1", "192.0.2.7, nonsense") == "10.0.0.1");
  CHECK(proxies.client_of("10.0.0.1", ",") == "10.0.0.1");
  CHECK_THROWS_AS(Proxies({"proxy.example"}), Error);
}

}  // namespace
}  // namespace conclave::service
