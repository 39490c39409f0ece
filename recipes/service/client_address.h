// Addresses of clients, as text: of IPv4, also where the socket is one of IPv6, or of IPv6.
#pragma once

#include <sys/socket.h>

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace conclave::service {

std::string client_address(const sockaddr_storage& from);
/// What is written so, also with a port (192.0.2.7:443, [2001:db8::1]:443); none where it is no address.
std::optional<std::string> client_address(std::string_view text);
/// As whom rates count it, and the log tells it: of IPv6 the first 64 bits, as one client commonly has all
/// addresses that begin so.
std::string client_network(const std::string& address);

/// Proxies whose word is taken for whom they ask for.
class Proxies {
 public:
  /// Throws Error where one of `addresses` is none.
  explicit Proxies(const std::vector<std::string>& addresses);

  /// Who asks by a connection from `address`, where the request's X-Forwarded-For, to which every proxy adds
  /// at the end, is `forwarded`: the last who is no proxy. What is further in front anybody could have
  /// written.
  std::string client_of(const std::string& address, std::string_view forwarded) const;

 private:
  bool knows(const std::string& address) const;
  std::vector<std::string> addresses_;
};

}  // namespace conclave::service
