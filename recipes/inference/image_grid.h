// Combines several images into one.
#pragma once

#include <vector>

#include "data/image.h"

namespace conclave {

/// The images, all of one shape, in rows from left to right, on white with gaps between them. Each pixel
/// becomes `scale` x `scale` pixels.
Image image_grid(const std::vector<Image>& images, std::int64_t columns, std::int64_t scale = 1);
/// A grid as square as possible.
Image square_grid(const std::vector<Image>& images, std::int64_t scale = 1);

}  // namespace conclave
