// The output of a training run: lines for the terminal, and metrics for later. Only rank 0 writes; on other
// ranks all of this does nothing.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "recipes/corpus/corpus.h"
#include "recipes/evaluation/evaluator.h"
#include "recipes/models/model.h"
#include "recipes/settings/recipe.h"
#include "recipes/training/progress.h"
#include "recipes/training/run_folder.h"

namespace conclave {

/// Says on standard error that a step's checkpoint was not saved; any thread.
void warn_unsaved(std::int64_t step, const std::string& why);

class TrainingLog {
 public:
  /// All arguments but the options must outlive the object.
  TrainingLog(const Recipe& recipe, Model& model, Communicator& world, const ProgressOptions& progress);

  void say(const std::string& text);
  /// Describes the data of a task, and warns of what is unusual in it. `batches` are those of an epoch.
  void describe(const Task& task, const Corpus& corpus, const TaskSplits& splits, std::int64_t batches,
                double padding);

  /// From here on, also writes metrics to files in `folder`, which was taken (see RunFolder::metrics). Throws
  /// Error if the files cannot be made.
  void write_metrics(const RunFolder& folder, const std::string& host);
  void forget_metrics_from(std::int64_t step);
  /// See MetricsWriter::drop_evaluation.
  void forget_evaluation(std::int64_t step, const std::string& split);

  void steps(const StepReport& report, std::span<const Metric> metrics);
  /// Reports the evaluation of a task's `split` after step `step`.
  void evaluation(const std::string& task, const std::string& split, const Evaluation& result,
                  std::int64_t step);
  /// Ends the progress line, so that other output may follow.
  void finish() { progress_.finish(); }

 private:
  void say_evaluation(const std::string& name, bool details, const Evaluation& result);

  const Recipe& recipe_;
  Model& model_;
  bool first_;  // rank
  std::vector<std::string> layers_;
  Progress progress_;
  std::unique_ptr<MetricsWriter> metrics_;
};

}  // namespace conclave
