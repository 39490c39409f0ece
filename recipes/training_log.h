// What a training run tells: lines for who watches it, and metrics for who looks at it later. Rank 0's; on
// others all of this does nothing.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "recipes/corpus.h"
#include "recipes/evaluator.h"
#include "recipes/metrics/metrics_writer.h"
#include "recipes/models/model.h"
#include "recipes/progress.h"
#include "recipes/recipe.h"

namespace conclave {

class TrainingLog {
 public:
  /// All but the options must outlive it.
  TrainingLog(const Recipe& recipe, Model& model, Communicator& world, const ProgressOptions& progress);

  void say(const std::string& text);
  /// What a task is trained on, and what is odd about that. `batches` of an epoch.
  void describe(const Task& task, const Corpus& corpus, const TaskSplits& splits, std::int64_t batches,
                double padding);

  /// Measures from here on go to files in `directory`, too, as MetricsWriter has it; those of `first_step`
  /// and later ones are forgotten. Throws Error where they cannot be made.
  void write_metrics(const std::string& directory, const std::string& host, std::int64_t first_step);
  void forget_metrics_from(std::int64_t step);

  void steps(const StepReport& report, std::span<const Metric> metrics);
  /// What came of a task's `split` after step `step`.
  void evaluation(const std::string& task, const std::string& split, const Evaluation& result,
                  std::int64_t step);
  /// Lines of others may follow.
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
