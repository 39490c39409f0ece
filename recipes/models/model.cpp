#include "recipes/models/model.h"

namespace conclave {

Model::Model(const Recipe& recipe, const ModelSizes& sizes, const ProcessGrid& grid)
    : sizes_(sizes), trunk_(recipe, sizes, sizes.image.size() > 0, grid) {
  add_module("", trunk_);
  classifier_ = std::make_unique<Classifier>(recipe, sizes, trunk_);
  add_module("", *classifier_);
  tasks_.push_back(classifier_.get());
}

}  // namespace conclave
