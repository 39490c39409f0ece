#include <fmt/format.h>

#include <algorithm>
#include <iostream>
#include <nlohmann/json.hpp>
#include <numeric>

#include "recipes/commands/commands.h"
#include "recipes/predictor.h"

namespace conclave::commands {
namespace {

void print(const Prediction& prediction, const std::vector<std::string>& class_names, std::size_t top) {
  std::vector<std::size_t> order(class_names.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  const std::size_t shown = std::min(top, order.size());
  std::partial_sort(order.begin(), order.begin() + static_cast<std::ptrdiff_t>(shown), order.end(),
                    [&](std::size_t a, std::size_t b) {
                      return prediction.probabilities[a] > prediction.probabilities[b];
                    });
  nlohmann::ordered_json line{{"text", prediction.text},
                              {"class", class_names[prediction.best]},
                              {"probability", prediction.probabilities[prediction.best]}};
  for (std::size_t i = 0; i < shown; ++i)
    line["top"].push_back(
        {{"class", class_names[order[i]]}, {"probability", prediction.probabilities[order[i]]}});
  // Bytes that are no UTF-8 become replacement characters, so that the output is always JSON.
  fmt::print("{}\n", line.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace));
}

}  // namespace

int predict(const PredictArguments& arguments, const Surroundings& surroundings, const MpiSession& session) {
  DeviceWorld chosen = world_for(arguments.device, session);
  auto& world = chosen.world;
  set_threads(0, surroundings, *world);
  const ProcessGrid grid(std::move(world), 0);
  LoadedModel loaded(find_checkpoint(arguments.checkpoint), grid, arguments.overrides);
  Predictor predictor(loaded, grid);
  const auto answer = [&](const std::vector<std::string>& texts) {
    for (const Prediction& prediction : predictor.predict(texts))
      print(prediction, loaded.class_names(), static_cast<std::size_t>(arguments.top));
    std::fflush(stdout);
  };
  if (!arguments.texts.empty()) {
    answer(arguments.texts);
    return 0;
  }
  // A person typing, or a service on a pipe, waits for each line's answer; a file is read in larger pieces.
  std::ios::sync_with_stdio(false);  // else std::cin reads ahead nothing, and in_avail knows nothing
  std::vector<std::string> lines;
  for (std::string line; std::getline(std::cin, line);) {
    lines.push_back(std::move(line));
    if (std::cin.rdbuf()->in_avail() > 0 && lines.size() < 256) continue;
    answer(lines);
    lines.clear();
  }
  if (!lines.empty()) answer(lines);
  return 0;
}

}  // namespace conclave::commands
