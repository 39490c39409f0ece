// The sites whose control variates c is the mean of (strategies/scaffold.h). The metadata of c's checkpoint
// name them, because a control variate stays in c when its site is removed from the federation: a number of
// sites would not tell that one was replaced.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <set>
#include <string>

namespace conclave {

/// The key in a checkpoint's metadata; missing if the checkpoint has no c.
inline constexpr const char* kControlSites = "control_sites";

/// The sites that a checkpoint's metadata name; none without the key.
std::set<std::string> control_sites(const nlohmann::json& metadata);

/// Adds sites, whose control variates are zero, to those in the metadata. Returns the factor by which c
/// becomes the mean of all of them.
double add_control_sites(nlohmann::json& metadata, const std::set<std::string>& sites);

}  // namespace conclave
