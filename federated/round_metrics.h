// What a coordinator tells of the metrics that sites send: names and values are the sites' to choose.
#pragma once

#include <map>
#include <span>
#include <string>

#include "federated/round_board.h"

namespace conclave {

/// Means over a round's updates, by name: weighted by examples, or each update alike, as the strategy counts
/// them. Of names that half of the updates have, or more; otherwise one site could make up new time series in
/// every round. Finite ones.
std::map<std::string, double> mean_metrics(std::span<const ReceivedUpdate> updates, bool by_examples);

}  // namespace conclave
