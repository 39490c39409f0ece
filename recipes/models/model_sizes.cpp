#include "recipes/models/model_sizes.h"

namespace conclave {

ModelSizes model_sizes(const DataRecipe& recipe, std::size_t classes,
                       const std::optional<Tokenizer>& tokenizer, const ImageShape& image) {
  return {.vocabulary = tokenizer ? tokenizer->vocabulary() : 0,
          .max_length = recipe.max_length,
          .classes = static_cast<Index>(classes),
          .unknown_token = tokenizer ? tokenizer->unknown() : 0,
          .end_token = tokenizer ? tokenizer->end() : 0,
          .image = image};
}

}  // namespace conclave
