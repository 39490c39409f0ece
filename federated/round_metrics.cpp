#include "federated/round_metrics.h"

#include <cmath>
#include <utility>
#include <vector>

namespace conclave {

std::map<std::string, double> mean_metrics(std::span<const ReceivedUpdate> updates, bool by_examples) {
  std::map<std::string, std::vector<std::pair<double, double>>> told;  // weights and values
  for (const ReceivedUpdate& update : updates)
    for (const auto& [name, value] : update.metrics)
      told[name].emplace_back(by_examples ? update.examples : 1, value);
  std::map<std::string, double> means;
  for (const auto& [name, values] : told) {
    if (2 * values.size() < updates.size()) continue;
    double all = 0, mean = 0;
    for (const auto& [weight, value] : values) all += weight;
    for (const auto& [weight, value] : values) mean += weight / all * value;  // no sum beyond the largest
    if (std::isfinite(mean)) means.emplace(name, mean);
  }
  return means;
}

}  // namespace conclave
