// The sizes of a model that its examples decide.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>

#include "core/tensor.h"
#include "data/image.h"
#include "data/tokenizer.h"
#include "recipes/settings/recipe.h"

namespace conclave {

/// The sizes that a model is built for.
struct ModelSizes {
  Index vocabulary = 0;  ///< 0: no texts
  Index max_length = 0, classes = 0;
  std::int32_t unknown_token = 0;  ///< replaces a hidden token
  std::int32_t end_token = 0;      ///< follows a text's last token
  ImageShape image = {};           ///< empty: no images
};

/// The sizes of a model for texts with this tokenizer and images of this shape.
ModelSizes model_sizes(const DataRecipe& recipe, std::size_t classes,
                       const std::optional<Tokenizer>& tokenizer, const ImageShape& image);

}  // namespace conclave
