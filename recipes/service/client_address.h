// Client addresses as text. An IPv4 address that an IPv6 socket reports (::ffff:a.b.c.d) is written as IPv4.
#pragma once

#include <sys/socket.h>

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace conclave::service {

std::string client_address(const sockaddr_storage& from);
/// Parses an address, also with a port (192.0.2.7:443, [2001:db8::1]:443); nullopt where it is not an
/// address.
std::optional<std::string> client_address(std::string_view text);
/// The name under which the rate limit counts a client and the log lists it: an IPv4 address, or the first 64
/// bits of an IPv6 address, because one client commonly owns all addresses with that prefix.
std::string client_network(const std::string& address);

/// Trusted proxies: the service believes the X-Forwarded-For header of their requests.
class Proxies {
 public:
  /// Throws Error where one of `addresses` is not an address.
  explicit Proxies(const std::vector<std::string>& addresses);

  /// The client of a request that came over a connection from `address` with the X-Forwarded-For header
  /// `forwarded`. Each proxy appends to that header, so the client is the last entry that is not a trusted
  /// proxy; anybody could have written the entries before it.
  std::string client_of(const std::string& address, std::string_view forwarded) const;

 private:
  bool knows(const std::string& address) const;
  std::vector<std::string> addresses_;
};

}  // namespace conclave::service
