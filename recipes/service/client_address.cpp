#include "recipes/service/client_address.h"

#include <arpa/inet.h>

#include <algorithm>
#include <array>

#include "core/error.h"
#include "core/text.h"

namespace conclave::service {
namespace {

std::string text_of(int family, const void* address) {
  std::array<char, INET6_ADDRSTRLEN> text{};
  inet_ntop(family, address, text.data(), text.size());
  return text.data();
}

std::string text_of(in6_addr address) {
  if (IN6_IS_ADDR_V4MAPPED(&address)) return text_of(AF_INET, &address.s6_addr[12]);
  std::fill_n(&address.s6_addr[8], 8, std::uint8_t{0});
  return text_of(AF_INET6, &address);
}

}  // namespace

std::string client_address(const sockaddr_storage& from) {
  if (from.ss_family == AF_INET)
    return text_of(AF_INET, &reinterpret_cast<const sockaddr_in&>(from).sin_addr);
  return text_of(reinterpret_cast<const sockaddr_in6&>(from).sin6_addr);
}

std::optional<std::string> client_address(std::string_view text) {
  const std::string given(text);
  in_addr short_one{};
  if (inet_pton(AF_INET, given.c_str(), &short_one) == 1) return text_of(AF_INET, &short_one);
  in6_addr long_one{};
  if (inet_pton(AF_INET6, given.c_str(), &long_one) == 1) return text_of(long_one);
  return std::nullopt;
}

Proxies::Proxies(const std::vector<std::string>& addresses) {
  for (const std::string& one : addresses) {
    const std::optional<std::string> address = client_address(one);
    require(address.has_value(), "--proxy {}: no address, such as 10.0.0.7", one);
    addresses_.push_back(*address);
  }
}

bool Proxies::knows(const std::string& address) const {
  return std::ranges::find(addresses_, address) != addresses_.end();
}

std::string Proxies::client_of(const std::string& address, std::string_view forwarded) const {
  std::string client = address;
  while (knows(client) && !forwarded.empty()) {
    const std::size_t comma = forwarded.rfind(',');
    const bool last = comma == std::string_view::npos;
    const std::optional<std::string> before =
        client_address(trimmed(last ? forwarded : forwarded.substr(comma + 1)));
    if (!before) break;
    client = *before;
    forwarded = last ? std::string_view() : forwarded.substr(0, comma);
  }
  return client;
}

}  // namespace conclave::service
