// Who asks, as rates are counted by and the log tells it: an address of IPv4, or the first half of one of
// IPv6, of which a client commonly has all the second halves.
#pragma once

#include <sys/socket.h>

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace conclave::service {

std::string client_address(const sockaddr_storage& from);
/// The same of its text; none where it is no address.
std::optional<std::string> client_address(std::string_view text);

/// Proxies whose word is taken for whom they ask for.
class Proxies {
 public:
  /// Throws Error where one of `addresses` is none.
  explicit Proxies(const std::vector<std::string>& addresses);

  /// Who asks by a connection of `address`, where the request's X-Forwarded-For, to which every proxy adds at
  /// the end, is `forwarded`: the last who is no proxy. What is further in front anybody could have written.
  std::string client_of(const std::string& address, std::string_view forwarded) const;

 private:
  bool knows(const std::string& address) const;
  std::vector<std::string> addresses_;
};

}  // namespace conclave::service
