#include <fmt/format.h>

#include <algorithm>
#include <iostream>
#include <nlohmann/json.hpp>

#include "core/json_text.h"
#include "recipes/commands/commands.h"
#include "recipes/inference/likeliest.h"
#include "recipes/inference/predictor.h"

namespace conclave::commands {
namespace {

nlohmann::ordered_json beginning_of(const Example& example) {
  nlohmann::ordered_json line;
  if (!example.image.empty()) line["image"] = example.image;
  if (!example.text.empty() || example.image.empty()) line["text"] = example.text;
  return line;
}

void print(const Example& example, const Error& error) {
  nlohmann::ordered_json line = beginning_of(example);
  line["error"] = error.what();
  fmt::print("{}\n", json_text(line));
}

void print(const Example& example, const Prediction& prediction, const std::vector<std::string>& class_names,
           std::int64_t top) {
  nlohmann::ordered_json line = beginning_of(example);
  add_classes(line, prediction.probabilities, class_names, top);
  fmt::print("{}\n", json_text(line));
}

// The example in a line. For models of texts or of images alone it is the text or the image's file; for
// models of both, the file, a tab and the text, or a text.
Example example_of(std::string line, const LoadedModel& loaded) {
  const bool images = loaded.recipe().data.has_images();
  if (!loaded.recipe().data.has_texts()) return {"", std::move(line)};
  const std::size_t tab = images ? line.find('\t') : std::string::npos;
  if (tab == std::string::npos) return {std::move(line), ""};
  return {line.substr(tab + 1), line.substr(0, tab)};
}

}  // namespace

int predict(const PredictArguments& arguments, const ProcessEnvironment& surroundings,
            const MpiSession& session) {
  DeviceWorld chosen = world_for(arguments.device, session);
  auto& world = chosen.world;
  set_threads(0, surroundings, *world);
  const ProcessGrid grid(std::move(world), 0);
  require(grid.world().size() == 1, "predict runs in one process, not in {}", grid.world().size());
  LoadedModel loaded(arguments.checkpoint, grid, arguments.overrides);
  Predictor predictor(loaded, grid);
  const auto answer = [&](const std::vector<Example>& examples) {
    const std::vector<Prediction> predictions = predictor.predict(examples);
    for (std::size_t i = 0; i < examples.size(); ++i)
      print(examples[i], predictions[i], loaded.class_names(), arguments.top);
    std::fflush(stdout);
  };
  const auto &texts = arguments.texts, &images = arguments.images;
  require(texts.empty() || images.empty() || loaded.recipe().data.has_texts(),
          "{}: the model classifies images alone; name each by --image FILE", texts.front());
  require(texts.empty() || images.empty() || texts.size() == images.size(),
          "{} texts and {} images: give as many of both, \"\" for what an example lacks", texts.size(),
          images.size());
  std::vector<Example> examples(std::max(texts.size(), images.size()));
  for (std::size_t i = 0; i < texts.size(); ++i) examples[i].text = texts[i];
  for (std::size_t i = 0; i < images.size(); ++i) examples[i].image = images[i];
  if (examples.size() == 1) {
    answer(examples);
    return 0;
  }
  bool failed = false;
  // If one example cannot be read, such as a missing image, the others are still answered.
  const auto answer_each = [&] {
    try {
      answer(examples);
    } catch (const Error&) {
      for (const Example& example : examples) try {
          answer({example});
        } catch (const Error& error) {
          failed = true;
          print(example, error);
        }
    }
    examples.clear();
  };
  if (!examples.empty()) {
    answer_each();
    return failed ? 1 : 0;
  }
  // A person typing, or a service on a pipe, waits for each line's answer; a file is read in larger pieces.
  std::ios::sync_with_stdio(false);  // else std::cin does not read ahead, and in_avail() says nothing
  for (std::string line; std::getline(std::cin, line);) {
    if (line.ends_with('\r')) line.pop_back();
    examples.push_back(example_of(std::move(line), loaded));
    if (std::cin.rdbuf()->in_avail() <= 0 || examples.size() >= 256) answer_each();
  }
  if (!examples.empty()) answer_each();
  return failed ? 1 : 0;
}

}  // namespace conclave::commands
