// Several images as one.
#pragma once

#include <vector>

#include "data/image.h"

namespace conclave {

/// The images, all of one shape, in rows from left to right, each pixel `scale` times as large, on white with
/// gaps between.
Image image_grid(const std::vector<Image>& images, std::int64_t columns, std::int64_t scale = 1);
/// The same, as square as can be.
Image square_grid(const std::vector<Image>& images, std::int64_t scale = 1);

}  // namespace conclave
