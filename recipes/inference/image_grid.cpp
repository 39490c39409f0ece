#include "recipes/inference/image_grid.h"

#include <algorithm>
#include <cmath>

namespace conclave {

Image image_grid(const std::vector<Image>& images, std::int64_t columns, std::int64_t scale) {
  const ImageShape& one = images.front().shape;
  const auto count = static_cast<std::int64_t>(images.size());
  const std::int64_t rows = (count + columns - 1) / columns, gap = 2;
  const std::int64_t step_y = one.height * scale + gap, step_x = one.width * scale + gap;
  Image grid{{rows * step_y - gap, columns * step_x - gap, one.channels}, {}};
  grid.pixels.assign(static_cast<std::size_t>(grid.shape.size()), 255);
  for (std::int64_t i = 0; i < count; ++i)
    for (std::int64_t y = 0; y < one.height * scale; ++y)
      for (std::int64_t x = 0; x < one.width * scale; ++x) {
        const std::int64_t to =
            ((i / columns * step_y + y) * grid.shape.width + i % columns * step_x + x) * one.channels;
        const std::int64_t from = (y / scale * one.width + x / scale) * one.channels;
        std::copy_n(images[static_cast<std::size_t>(i)].pixels.begin() + from, one.channels,
                    grid.pixels.begin() + to);
      }
  return grid;
}

Image square_grid(const std::vector<Image>& images, std::int64_t scale) {
  const double side = std::ceil(std::sqrt(static_cast<double>(images.size())));
  return image_grid(images, static_cast<std::int64_t>(side), scale);
}

}  // namespace conclave
