// The quality of generated images: whether a classifier of real images recognises what was asked for, and
// whether the images are more than copies of the generator's training images.
#pragma once

#include <span>
#include <vector>

#include "data/dataset.h"
#include "recipes/inference/predictor.h"

namespace conclave {

/// [classes]: share of the images of each class that the predictor recognises as that class; NaN for a class
/// without images. `labels` are the classes asked for.
std::vector<double> recognised(Predictor& predictor, std::span<const Image> images,
                               std::span<const std::int32_t> labels, std::size_t classes);

/// The distance of each of `images` to the nearest of `known`: the root of the mean squared difference of
/// their bytes. All have the same shape.
std::vector<double> nearest_distances(std::span<const std::uint8_t> images,
                                      std::span<const std::uint8_t> known, const ImageShape& shape);

}  // namespace conclave
