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

std::string text_of(const in6_addr& address) {
  return IN6_IS_ADDR_V4MAPPED(&address) ? text_of(AF_INET, &address.s6_addr[12])
                                        : text_of(AF_INET6, &address);
}

// The address in "[2001:db8::1]:443" and "192.0.2.7:443", without brackets and port. Text with several colons
// and no brackets is an IPv6 address without a port.
std::string_view bare_address(std::string_view text) {
  if (text.starts_with('[')) {
    const std::size_t end = text.find(']');
    return end == std::string_view::npos ? text : text.substr(1, end - 1);
  }
  return std::ranges::count(text, ':') == 1 ? text.substr(0, text.find(':')) : text;
}

}  // namespace

std::string client_address(const sockaddr_storage& from) {
  if (from.ss_family == AF_INET)
    return text_of(AF_INET, &reinterpret_cast<const sockaddr_in&>(from).sin_addr);
  return text_of(reinterpret_cast<const sockaddr_in6&>(from).sin6_addr);
}

std::optional<std::string> client_address(std::string_view text) {
  const std::string given(bare_address(text));
  in_addr short_one{};
  if (inet_pton(AF_INET, given.c_str(), &short_one) == 1) return text_of(AF_INET, &short_one);
  in6_addr long_one{};
  if (inet_pton(AF_INET6, given.c_str(), &long_one) == 1) return text_of(long_one);
  return std::nullopt;
}

std::string client_network(const std::string& address) {
  in6_addr bits{};
  if (inet_pton(AF_INET6, address.c_str(), &bits) != 1) return address;
  std::fill_n(&bits.s6_addr[8], 8, std::uint8_t{0});
  return text_of(bits);
}

Proxies::Proxies(const std::vector<std::string>& addresses) {
  for (const std::string& one : addresses) {
    const std::optional<std::string> address = client_address(one);
    require(address.has_value(), "--proxy {}: expected an IP address, such as 10.0.0.7", one);
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
    const std::string_view entry = trimmed(last ? forwarded : forwarded.substr(comma + 1));
    forwarded = last ? std::string_view() : forwarded.substr(0, comma);
    if (entry.empty()) continue;
    const std::optional<std::string> before = client_address(entry);
    if (!before) break;
    client = *before;
  }
  return client;
}

}  // namespace conclave::service
