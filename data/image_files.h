// Pictures of every size and kind, as they come in files, made alike for a data set.
#pragma once

#include <cstdint>
#include <string>

#include "data/image.h"

namespace conclave {

/// The middle square of `image`, in colour, at `side` x `side` pixels.
Image square_image(const Image& image, std::int64_t side, Rgb background = kWhiteBackground);

/// The same of a PNG or JPEG file; throws Error, which begins with `path`, where it cannot be read.
Image read_square_image(const std::string& path, std::int64_t side);

}  // namespace conclave
