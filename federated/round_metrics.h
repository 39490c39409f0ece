// The metrics that a coordinator reports. Their names and values come from the sites, and are not trusted.
#pragma once

#include <map>
#include <span>
#include <string>

#include "federated/round_board.h"

namespace conclave {

/// Means over a round's updates, by name, weighted by examples or equally. The caller chooses what its
/// strategy does. A name is reported only if at least half of the updates have it; otherwise one site could
/// add new time series in every round. A mean is reported only if it is finite.
std::map<std::string, double> mean_metrics(std::span<const ReceivedUpdate> updates, bool by_examples);

}  // namespace conclave
