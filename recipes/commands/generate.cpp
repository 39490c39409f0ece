#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>

#include "core/clock.h"
#include "core/file.h"
#include "recipes/commands/commands.h"
#include "recipes/corpus/corpus.h"
#include "recipes/evaluation/generated_check.h"
#include "recipes/inference/image_grid.h"
#include "recipes/inference/image_sampler.h"
#include "recipes/settings/recipe_text.h"

namespace conclave::commands {
namespace {

// The class that each text names.
std::vector<std::int32_t> classes_of(const std::vector<std::string>& texts,
                                     const std::vector<std::string>& class_names, const std::string& judge) {
  std::vector<std::int32_t> classes;
  for (const std::string& text : texts) {
    const auto found = std::ranges::find(class_names, text);
    require(found != class_names.end(), "--judge {}: it has no class \"{}\"; its classes are: {}", judge,
            text, fmt::join(class_names, ", "));
    classes.push_back(static_cast<std::int32_t>(found - class_names.begin()));
  }
  return classes;
}

// `recipe`: of the model that drew the images. Its plug-ins, which --set named, are the judge's, too.
void judge(const std::string& path, const std::vector<Image>& images, const std::vector<std::string>& texts,
           const Recipe& recipe, const ProcessGrid& grid) {
  std::vector<std::string> overrides;
  if (!recipe.run.plugins.empty())
    overrides.push_back("run.plugins=" + recipe_text::toml_value(recipe.run.plugins));
  LoadedModel loaded(path, grid, overrides);
  const std::vector<std::string>& names = loaded.class_names();
  const std::vector<std::int32_t> labels = classes_of(texts, names, path);
  Predictor predictor(loaded, grid);
  const std::vector<double> shares = recognised(predictor, images, labels, names.size());
  double right = 0;
  for (const std::int32_t label : labels) right += shares[static_cast<std::size_t>(label)];
  fmt::print("recognised: {:.1f}% of {} images", 100 * right / static_cast<double>(images.size()),
             images.size());
  for (std::size_t c = 0; c < names.size(); ++c)
    if (!std::isnan(shares[c])) fmt::print("{} {} {:.0f}%", c == 0 ? ":" : ",", names[c], 100 * shares[c]);

  const ImageDataset data = read_examples(recipe.data, recipe.image, grid.world(), false);
  const ImageShape& shape = data.train.images.shape;
  std::vector<std::uint8_t> bytes;
  for (const Image& image : images) bytes.insert(bytes.end(), image.pixels.begin(), image.pixels.end());
  const auto unseen =
      std::span(data.test.images.pixels).first(std::min(bytes.size(), data.test.images.pixels.size()));
  if (unseen.empty()) {
    fmt::print("\nthe test split has no images to compare with\n");
    return;
  }
  std::vector<double> generated = nearest_distances(bytes, data.train.images.pixels, shape),
                      real = nearest_distances(unseen, data.train.images.pixels, shape);
  std::ranges::sort(generated);
  std::ranges::sort(real);
  const double near = real[real.size() / 100];
  fmt::print(
      "\nnearest training image: {:.1f} of 255 away (median; root of the mean square), {:.1f} from images of "
      "the test split; {:.1f}% are nearer than the nearest 1% of those are\n",
      generated[generated.size() / 2], real[real.size() / 2],
      100 * static_cast<double>(std::ranges::lower_bound(generated, near) - generated.begin()) /
          static_cast<double>(generated.size()));
}

}  // namespace

int generate(const GenerateArguments& arguments, const ProcessEnvironment& surroundings,
             const MpiSession& session) {
  require(arguments.out.ends_with(".png"), "{}: name the output *.png", arguments.out);
  DeviceWorld chosen = world_for(arguments.device, session);
  set_threads(0, surroundings, *chosen.world);
  const ProcessGrid grid(std::move(chosen.world), 0);
  LoadedModel loaded(arguments.checkpoint, grid, arguments.overrides);
  ImageSampler sampler(loaded, grid);
  const std::vector<std::string>& wanted = arguments.texts.empty() ? loaded.class_names() : arguments.texts;
  std::vector<std::string> texts;
  for (const std::string& text : wanted)
    texts.insert(texts.end(), static_cast<std::size_t>(arguments.count), text);
  const Clock::time_point start = Clock::now();
  const std::vector<Image> images = sampler.sample(texts, arguments.options);
  const double seconds = seconds_since(start);
  // A row for each text if there are several, else as square as possible.
  const Image grid_of_all = wanted.size() > 1 ? image_grid(images, arguments.count, arguments.scale)
                                              : square_grid(images, arguments.scale);
  write_file_atomically(arguments.out, encode_png(grid_of_all));
  fmt::print("{}: {} images in {:.1f} s, {:.3f} s each\n", arguments.out, images.size(), seconds,
             seconds / static_cast<double>(images.size()));
  if (!arguments.judge.empty()) judge(arguments.judge, images, texts, loaded.recipe(), grid);
  return 0;
}

}  // namespace conclave::commands
