// How good generated images are: whether a classifier of real images sees in them what was asked for, and
// whether they are more than copies of what the generator was trained on.
#pragma once

#include <span>
#include <vector>

#include "data/dataset.h"
#include "recipes/predictor.h"

namespace conclave {

/// The share of images of each class that the predictor takes for one of it: [classes]; NaN without images of
/// a class. `labels` are the classes asked for.
std::vector<double> recognised(Predictor& predictor, std::span<const Image> images,
                               std::span<const std::int32_t> labels, std::size_t classes);

/// The distance of each of `images` to the nearest of `known`, all of one shape: the root of the mean squared
/// difference of their bytes.
std::vector<double> nearest_distances(std::span<const std::uint8_t> images,
                                      std::span<const std::uint8_t> known, const ImageShape& shape);

}  // namespace conclave
