#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>

#include "data/file.h"
#include "recipes/commands/commands.h"
#include "recipes/image_sampler.h"

namespace conclave::commands {
namespace {

// The images in rows from left to right, each pixel `scale` times as large, on white with gaps between.
Image grid_of(const std::vector<Image>& images, Index columns, Index scale) {
  const ImageShape& one = images.front().shape;
  const Index rows = (static_cast<Index>(images.size()) + columns - 1) / columns, gap = 2;
  const Index step_y = one.height * scale + gap, step_x = one.width * scale + gap;
  Image grid{{rows * step_y - gap, columns * step_x - gap, one.channels}, {}};
  grid.pixels.assign(static_cast<std::size_t>(grid.shape.size()), 255);
  for (Index i = 0; i < static_cast<Index>(images.size()); ++i)
    for (Index y = 0; y < one.height * scale; ++y)
      for (Index x = 0; x < one.width * scale; ++x) {
        const Index to =
            ((i / columns * step_y + y) * grid.shape.width + i % columns * step_x + x) * one.channels;
        const Index from = (y / scale * one.width + x / scale) * one.channels;
        std::copy_n(images[static_cast<std::size_t>(i)].pixels.begin() + from, one.channels,
                    grid.pixels.begin() + to);
      }
  return grid;
}

}  // namespace

int generate(const GenerateArguments& arguments, const Surroundings& surroundings,
             const MpiSession& session) {
  require(arguments.out.ends_with(".png"), "{}: name the output *.png", arguments.out);
  DeviceWorld chosen = world_for(arguments.device, session);
  set_threads(0, surroundings, *chosen.world);
  const ProcessGrid grid(std::move(chosen.world), 0);
  LoadedModel loaded(find_checkpoint(arguments.checkpoint), grid, arguments.overrides);
  ImageSampler sampler(loaded, grid);
  std::vector<std::string> texts;
  for (const std::string& text : arguments.texts)
    texts.insert(texts.end(), static_cast<std::size_t>(arguments.count), text);
  const auto begin = std::chrono::steady_clock::now();
  const std::vector<Image> images = sampler.sample(
      texts, {.steps = arguments.steps, .guidance = arguments.guidance, .seed = arguments.seed});
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
  // A row for each text where there are several, else as square as can be.
  const Index columns = arguments.texts.size() > 1
                            ? arguments.count
                            : static_cast<Index>(std::ceil(std::sqrt(static_cast<double>(arguments.count))));
  write_file_atomically(arguments.out, encode_png(grid_of(images, columns, arguments.scale)));
  fmt::print("{}: {} images in {:.1f} s, {:.3f} s each\n", arguments.out, images.size(), seconds.count(),
             seconds.count() / static_cast<double>(images.size()));
  return 0;
}

}  // namespace conclave::commands
