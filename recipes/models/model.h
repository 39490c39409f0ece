// A trunk, and the tasks that a recipe asks for.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "recipes/models/captioner.h"
#include "recipes/models/classifier.h"
#include "recipes/models/image_generator.h"
#include "recipes/models/quantized_model.h"
#include "recipes/models/trunk.h"

namespace conclave {

class Model : public Module {
 public:
  /// `grid` must outlive the model.
  Model(const Recipe& recipe, const ModelSizes& sizes, const ProcessGrid& grid);

  const ModelSizes& sizes() const { return sizes_; }
  /// In the order of the recipe's [tasks].
  const std::vector<Task*>& tasks() const { return tasks_; }
  /// Null if the recipe's [tasks] lack the task; so are the two below.
  Classifier* classifier() { return classifier_ ? &*classifier_ : nullptr; }
  Captioner* captioner() { return captioner_ ? &*captioner_ : nullptr; }
  ImageGenerator* generator() { return generator_ ? &*generator_ : nullptr; }
  /// The linear model beside the classifier's head, or null.
  WideClassifier* wide() { return classifier_ ? classifier_->wide() : nullptr; }
  std::vector<std::pair<std::string, MoeLayer*>> moe_layers() { return trunk_.moe_layers(); }
  /// Null unless the recipe enables it.
  Quantization* quantization() { return quantization_.get(); }

 private:
  ModelSizes sizes_;
  std::unique_ptr<Quantization> quantization_;
  Trunk trunk_;
  std::optional<Classifier> classifier_;
  std::optional<Captioner> captioner_;
  std::optional<ImageGenerator> generator_;
  std::vector<Task*> tasks_;
};

}  // namespace conclave
