#include "data/image_files.h"

#include <algorithm>

#include "data/file.h"
#include "data/image_transform.h"

namespace conclave {

Image square_image(const Image& image, std::int64_t side, Rgb background) {
  const Image colour = to_rgb(image, background);
  const std::int64_t shorter = std::min(colour.shape.height, colour.shape.width);
  Image square{{shorter, shorter, 3}, {}};
  square.pixels.resize(static_cast<std::size_t>(square.shape.size()));
  centre_crop(colour.pixels, colour.shape, shorter, shorter, square.pixels);
  Resizer resizer(square.shape, side, side);
  Image resized{resizer.shape(), {}};
  resized.pixels.resize(static_cast<std::size_t>(resized.shape.size()));
  resizer.resize(square.pixels, resized.pixels);
  return resized;
}

Image read_square_image(const std::string& path, std::int64_t side) {
  return square_image(decode_image(read_file(path, "is the data set complete?"), path), side);
}

}  // namespace conclave
