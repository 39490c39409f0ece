// A checkpoint's model and one split of its data, ready to be evaluated, on however many ranks now run.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "data/dataset.h"
#include "recipes/evaluator.h"
#include "recipes/loaded_model.h"

namespace conclave {

/// The examples that a model is evaluated on.
struct EvaluatedData {
  std::string split = "test";  ///< "train", "validation" or "test", of the recipe's data
  std::string table = {};  ///< a table of texts and their classes, in place of the recipe's data; "": none
};

class SplitEvaluation {
 public:
  /// Collective. `checkpoint` is a file or a folder; `overrides`
  /// change the checkpoint's recipe, as data paths may differ here from where the model was trained. Throws
  /// Error where the data has a class that the model does not know, or the split is empty.
  /// `task`: one of the model's; "": the first of them. `calibrates`: as LoadedModel's; batches then come in
  /// an order that is drawn.
  SplitEvaluation(const std::string& checkpoint, const EvaluatedData& of, const std::string& task,
                  const std::vector<std::string>& overrides, const ProcessGrid& grid,
                  bool calibrates = false);

  const std::string& checkpoint() const { return loaded_.checkpoint(); }  ///< the file
  const Recipe& recipe() const { return loaded_.recipe(); }
  LoadedModel& loaded() { return loaded_; }
  const LoadedModel& loaded() const { return loaded_; }
  const std::vector<std::string>& class_names() const { return loaded_.class_names(); }
  const std::vector<TextExample>& texts() const { return texts_; }
  const TokenizedSplit& tokens() const { return tokens_; }
  const std::string& task() const { return task_->name(); }
  /// Collective; the same result on every rank.
  Evaluation run(const BatchVisitor& visit = {}) { return evaluator_->run(visit); }
  /// Likewise.
  void calibrate(Index batches, const std::function<void()>& after_each) {
    evaluator_->calibrate(batches, after_each);
  }

 private:
  Arena activations_;  // after an error, the model's dispatchers wait for what is still to arrive in it
  LoadedModel loaded_;
  Task* task_;
  std::vector<TextExample> texts_;
  TokenizedSplit tokens_;
  std::unique_ptr<Evaluator> evaluator_;
};

}  // namespace conclave
