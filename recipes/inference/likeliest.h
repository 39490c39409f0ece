// The most probable classes of a prediction, and how answers list them.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <numeric>
#include <string>
#include <vector>

namespace conclave {

/// The `top` most probable classes, all if there are fewer; the most probable first, and of equals the
/// lowest.
template <class Probabilities>
std::vector<std::size_t> likeliest(const Probabilities& probabilities, std::int64_t top) {
  std::vector<std::size_t> order(probabilities.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::ranges::stable_sort(order, std::greater(), [&](std::size_t c) { return probabilities[c]; });
  order.resize(std::min(order.size(), static_cast<std::size_t>(top)));
  return order;
}

/// Adds "class" and "probability" of the most probable class to `json`, and "top": both of the `top` most
/// probable.
template <class Json, class Probabilities>
void add_classes(Json& json, const Probabilities& probabilities, const std::vector<std::string>& class_names,
                 std::int64_t top) {
  const auto order = likeliest(probabilities, top);
  json["class"] = class_names.at(order.front());
  json["probability"] = probabilities[order.front()];
  for (const std::size_t c : order)
    json["top"].push_back({{"class", class_names[c]}, {"probability", probabilities[c]}});
}

}  // namespace conclave
