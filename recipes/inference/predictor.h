// Texts and images in, classes and their probabilities out.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "data/image.h"
#include "recipes/models/loaded_model.h"

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

  /// One prediction per example, in order, computed in batches of bounded size. For a model trained on pairs
  /// of texts, a text is two with a tab between them. Image files are converted to the model's size and
  /// channels, transparent pixels over white. Throws Error, with the file's name, if one cannot be read, and
  /// for input that the model does not take. For one process.
  std::vector<Prediction> predict(std::span<const Example> examples);

  /// The results of a pass for a batch's sequences, in host memory, valid until the next pass.
  struct Scores {
    Tensor probabilities;  ///< [sequences, classes]
    Tensor features;       ///< [sequences, width], the input of the classifier's head
  };
  /// Computes this rank's share of a batch. Collective.
  Scores scores(const Batch& batch);
  /// Appends a sequence to `batch`: a text's tokens, an image's pixels in the model's shape, or both.
  void add(std::span<const std::int32_t> tokens, std::span<const std::uint8_t> pixels, Batch& batch) const;
  Index image_tokens() const { return classifier_.image_tokens(); }
  /// Width of Scores::features; known after the first pass.
  Index features() const { return features_; }
  /// Before the first pass: reserves memory for batches of at most `sequences` sequences and `rows` rows, so
  /// that passes allocate nothing. Returns the number of bytes. Collective.
  std::size_t plan(Index sequences, Index rows);

 private:
  void add(const Example& example, Batch& batch) const;

  LoadedModel& model_;
  Classifier& classifier_;
  Arena activations_;
  bool alone_, planning_ = false;
  Index features_ = 0;
};

}  // namespace conclave
