#include "federated/control_sites.h"

#include <nlohmann/json.hpp>

namespace conclave {

std::set<std::string> control_sites(const nlohmann::json& metadata) {
  return metadata.value(kControlSites, std::set<std::string>());
}

double add_control_sites(nlohmann::json& metadata, const std::set<std::string>& sites) {
  std::set<std::string> all = control_sites(metadata);
  const auto before = static_cast<double>(all.size());
  all.insert(sites.begin(), sites.end());
  metadata[kControlSites] = all;
  return before > 0 ? before / static_cast<double>(all.size()) : 1;  // without any, c is zero
}

}  // namespace conclave
