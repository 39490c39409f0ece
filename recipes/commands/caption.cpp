#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "core/clock.h"
#include "core/json_text.h"
#include "data/image_transform.h"
#include "recipes/commands/commands.h"
#include "recipes/corpus/corpus.h"
#include "recipes/measures/captions.h"
#include "recipes/models/loaded_model.h"

namespace conclave::commands {
namespace {

constexpr std::size_t kImages = 64;  // read, or printed, at once

// A split's images, each once, with their reference captions.
struct ImagesWithReferences {
  ImageColumn images;
  std::vector<std::int64_t> rows;
  std::vector<std::vector<std::string>> references;
};

ImagesWithReferences split_of(const LoadedModel& model, const std::string& name, Communicator& world) {
  const Recipe& recipe = model.recipe();
  ImageDataset data = read_examples(recipe.data, recipe.image, world, true);
  ImageSplit split = examples_for(TaskKind::caption, std::move(data.split(name)), data.class_names);
  require(!split.examples.empty(), "the {} split has no images", name);
  ImagesWithReferences found{std::move(split.images), {}, {}};
  std::vector<std::size_t> place(static_cast<std::size_t>(found.images.size()), split.examples.size());
  for (std::size_t i = 0; i < split.examples.size(); ++i) {
    std::size_t& at = place[static_cast<std::size_t>(found.images.rows[i])];
    if (at == split.examples.size()) {
      at = found.rows.size();
      found.rows.push_back(found.images.rows[i]);
      found.references.emplace_back();
    }
    found.references[at].push_back(std::move(split.examples[i].text));
  }
  return found;
}

}  // namespace

int caption(const CaptionArguments& arguments, const ProcessEnvironment& surroundings,
            const MpiSession& session) {
  require(arguments.images.empty() != arguments.split.empty(),
          "caption: give either --image FILE or --split");
  DeviceWorld chosen = world_for(arguments.device, session);
  set_threads(0, surroundings, *chosen.world);
  const ProcessGrid grid(std::move(chosen.world), 0);
  LoadedModel loaded(arguments.checkpoint, grid, arguments.overrides);
  require(grid.world().size() == 1, "caption runs in one process, not in {}", grid.world().size());
  CaptionWriter writer(loaded, grid);
  const ImageShape& shape = loaded.model().sizes().image;
  ImagesWithReferences split;
  if (!arguments.split.empty()) {
    split = split_of(loaded, arguments.split, grid.world());
    require(split.images.shape == shape, "the data's images are of another size than those trained on");
  }
  const bool of_split = !split.rows.empty();
  const std::size_t images = of_split ? split.rows.size() : arguments.images.size();
  const auto size = static_cast<std::size_t>(shape.size());
  std::vector<JudgedCaption> judged;
  double seconds = 0;
  for (std::size_t first = 0; first < images; first += kImages) {
    const std::size_t some = std::min(kImages, images - first);
    std::vector<std::uint8_t> pixels;
    pixels.reserve(some * size);
    for (std::size_t i = first; i < first + some; ++i) {
      if (of_split)
        std::ranges::copy(split.images.image(split.rows[i]), std::back_inserter(pixels));
      else
        std::ranges::copy(read_image(arguments.images[i], shape).pixels, std::back_inserter(pixels));
    }
    const Clock::time_point start = Clock::now();
    const auto written =
        writer.write(Tensor::borrow(pixels.data(), {static_cast<Index>(some), shape.size()}, DType::u8),
                     arguments.options, static_cast<std::int64_t>(first));
    seconds += seconds_since(start);
    for (std::size_t i = 0; i < some; ++i) {
      const std::string text = loaded.tokenizer()->decode(written[i].tokens);
      nlohmann::ordered_json line;
      if (!of_split) line["image"] = arguments.images[first + i];
      line["caption"] = text;
      line["log_probability"] = written[i].log_probability;
      if (of_split) line["references"] = split.references[first + i];
      fmt::print("{}\n", json_text(line));
      if (of_split) judged.push_back({text, std::move(split.references[first + i])});
    }
    std::fflush(stdout);
  }
  if (of_split)
    fmt::print("{}\n", json_text(nlohmann::ordered_json{
                           {"checkpoint", loaded.checkpoint()},
                           {"step", loaded.step()},
                           {"split", arguments.split},
                           {"images", images},
                           {"bleu_4", bleu(judged)[3]},
                           {"cider_d", cider_d(judged)},
                           {"captions_per_second", static_cast<double>(images) / seconds}}));
  return 0;
}

}  // namespace conclave::commands
