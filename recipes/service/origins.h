// Guards against web pages of other sites: they can make a visitor's browser ask a service that only the
// visitor's machine or network can reach.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "recipes/service/request_frame.h"

namespace conclave::service {

class Origins {
 public:
  /// `names`: names of the service besides localhost, 127.0.0.1, [::1] and `listens`, without ports. Throws
  /// Error where one of them is no name.
  Origins(const std::vector<std::string>& names, const std::string& listens);

  /// Whether `host`, a Host header with or without a port, names the service. A page whose own name was made
  /// to resolve to this machine (DNS rebinding) sends that name. True for "": browsers always send a Host.
  bool names(std::string_view host) const;
  /// Whether a browser says that the request comes from a page of another site: Sec-Fetch-Site is cross-site,
  /// or Origin is neither Host nor has one of the names given. Other programs send neither header.
  bool is_elsewhere(const RequestHead& head) const;

 private:
  std::vector<std::string> given_, known_;
};

}  // namespace conclave::service
