// A checkpoint's model and one split of its data, ready to be evaluated, on any number of ranks.
#pragma once

#include <deque>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "data/dataset.h"
#include "recipes/evaluation/evaluator.h"
#include "recipes/models/loaded_model.h"

namespace conclave {

/// The examples that a model is evaluated on.
struct EvaluatedData {
  std::string split = "test";  ///< "train", "validation" or "test", of the recipe's data
  std::string table = {};  ///< a table of texts and their classes, in place of the recipe's data; "": none
};

class SplitEvaluation {
 public:
  /// Collective. `checkpoint` is a file or a folder; `overrides` change the checkpoint's recipe, as data
  /// paths may differ from those of training. `task`: one of the model's; "": the first. `calibrates`: as in
  /// LoadedModel; batches then come in random order, and those of the model's other tasks are read, too.
  /// Throws Error if the data has a class that the model does not know, if there are no examples, or if the
  /// task does not read a table.
  SplitEvaluation(const std::string& checkpoint, const EvaluatedData& examples, const std::string& task,
                  const std::vector<std::string>& overrides, const ProcessGrid& grid,
                  bool calibrates = false);

  const std::string& checkpoint() const { return loaded_.checkpoint(); }  ///< the file
  const Recipe& recipe() const { return loaded_.recipe(); }
  LoadedModel& loaded() { return loaded_; }
  const LoadedModel& loaded() const { return loaded_; }
  const std::vector<std::string>& class_names() const { return loaded_.class_names(); }
  const std::vector<TextExample>& texts() const { return parts_.front().texts; }
  const TokenizedSplit& tokens() const { return parts_.front().tokens; }
  std::string_view task() const { return parts_.front().task->name(); }
  /// Collective; the same result on every rank.
  Evaluation run(const BatchVisitor& visit = {}) { return parts_.front().evaluator->run(visit); }
  /// Collective. Runs up to `batches` batches of each task, one of each in turn, and calls `after_each` after
  /// each turn.
  void observe(Index batches, const std::function<void()>& after_each);

 private:
  // What a task reads.
  struct Part {
    Task* task;
    std::vector<TextExample> texts;
    TokenizedSplit tokens;
    std::optional<Evaluator> evaluator;
  };

  Arena activations_;  // first, so that it outlives the model: after an error, dispatchers wait for messages
                       // that arrive in it
  LoadedModel loaded_;
  std::deque<Part> parts_;  // first the task that is evaluated
};

}  // namespace conclave
