// Texts in, classes and their probabilities out, for one process.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "recipes/loaded_model.h"

namespace conclave {

struct Prediction {
  std::string text;
  std::vector<double> probabilities;  ///< [classes]
  std::size_t best = 0;               ///< class of the highest probability
};

class Predictor {
 public:
  /// `model` must outlive the predictor.
  explicit Predictor(LoadedModel& model, const ProcessGrid& grid);

  /// One prediction per text, in order; of a model trained on pairs, a text is two with a tab between them;
  /// texts are computed together in batches of bounded size.
  std::vector<Prediction> predict(std::span<const std::string> texts);

 private:
  LoadedModel& model_;
  Arena activations_;
};

}  // namespace conclave
