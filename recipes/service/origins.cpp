#include "recipes/service/origins.h"

#include <algorithm>

#include "core/error.h"
#include "core/text.h"

namespace conclave::service {
namespace {

// "example.org:80" without the port; "[::1]:80" becomes "[::1]".
std::string_view without_port(std::string_view host) {
  const std::size_t end = host.starts_with('[') ? host.find(']') : host.find(':');
  return host.substr(0, host.starts_with('[') && end != std::string_view::npos ? end + 1 : end);
}

bool is_among(const std::vector<std::string>& names, std::string_view name) {
  return std::ranges::any_of(names, [&](const std::string& one) { return same_but_for_case(one, name); });
}

}  // namespace

Origins::Origins(const std::vector<std::string>& names, const std::string& listens)
    : given_(names), known_{"localhost", "127.0.0.1", "[::1]"} {
  for (const std::string& name : names)
    require(!name.empty() && without_port(name) == name && name.find('/') == std::string::npos,
            "--allow-host {}: expected a name such as models.example.org, without http:// and without a port",
            name);
  known_.push_back(listens.find(':') == std::string::npos ? listens : "[" + listens + "]");
  known_.insert(known_.end(), names.begin(), names.end());
}

bool Origins::names(std::string_view host) const {
  return host.empty() || is_among(known_, without_port(host));
}

bool Origins::is_elsewhere(const RequestHead& head) const {
  if (same_but_for_case(head.fetch_site, "cross-site")) return true;
  if (head.origin.empty()) return false;
  const std::size_t scheme = head.origin.find("://");
  if (scheme == std::string::npos) return true;  // "null", for example of a page in a file
  const std::string_view origin = std::string_view(head.origin).substr(scheme + 3);
  if (is_among(given_, without_port(origin))) return false;
  // Origin leaves out the port of its scheme; Host need not.
  const std::string_view usual = head.origin.starts_with("https:") ? ":443" : ":80";
  std::string_view host = head.host;
  if (without_port(origin) == origin && host.ends_with(usual) && without_port(host) != host)
    host.remove_suffix(usual.size());
  return !same_but_for_case(origin, host);
}

}  // namespace conclave::service
