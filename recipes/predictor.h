// Texts and images in, classes and their probabilities out, for one process.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "data/image.h"
#include "recipes/loaded_model.h"

namespace conclave {

/// A text, an image, or both, as the model was trained on.
struct Example {
  std::string text;               ///< "" beside an image: there is none
  std::string image;              ///< file; "": there is none
  const Image* pixels = nullptr;  ///< in place of a file, of the shape that the model was trained on

  bool has_image() const { return pixels || !image.empty(); }
};

struct Prediction {
  std::vector<double> probabilities;  ///< [classes]
  std::size_t best = 0;               ///< class of the highest probability
};

class Predictor {
 public:
  /// `model` must outlive the predictor; throws Error where it was not trained to classify.
  explicit Predictor(LoadedModel& model, const ProcessGrid& grid);

  /// One prediction per example, in order; they are computed together in batches of bounded size. Of a model
  /// trained on pairs, a text is two with a tab between them. Images are brought to the size and the channels
  /// of those that the model was trained on, what is transparent over white. Throws Error, with the file's
  /// name, where one cannot be read, and for what the model does not take.
  std::vector<Prediction> predict(std::span<const Example> examples);

 private:
  void add(const Example& example, Batch& batch) const;

  LoadedModel& model_;
  Classifier& classifier_;
  Arena activations_;
};

}  // namespace conclave
