// Trains a model from a recipe: reads the data, plans the memory, steps, evaluates, saves, and says
// how it goes. One object per run, on every rank; all of it is collective.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "autograd/optim/adamw.h"
#include "core/durable_file.h"
#include "core/schedule.h"
#include "data/prefetcher.h"
#include "federated/strategies/strategy.h"
#include "parallel/checkpoint/checkpoint_reader.h"
#include "parallel/checkpoint/checkpoint_writer.h"
#include "parallel/data_parallel.h"
#include "recipes/evaluator.h"
#include "recipes/private_training.h"
#include "recipes/recipe.h"
#include "recipes/run_ledger.h"
#include "recipes/site_terms.h"
#include "recipes/step_sums.h"
#include "recipes/training_log.h"

namespace conclave {

/// What the trainer needs from the world outside, passed in.
struct TrainerEnvironment {
  std::string cache_directory;  ///< for trained tokenizers
  std::string host = "localhost";
  ProgressOptions progress;
  const std::atomic<bool>* interrupted = nullptr;  ///< set by a signal: finish the step, save, stop
  std::string resume;  ///< "": start anew; "auto": the newest checkpoint; else a path

  bool is_interrupted() const { return interrupted && *interrupted; }
};

struct TrainResult {
  std::int64_t steps = 0;
  double train_seconds = 0;     ///< stepping, without start-up and the final evaluation
  double seconds_per_step = 0;  ///< mean over this run, savings left out
  std::int64_t saves = 0;       ///< checkpoints begun
  double save_seconds = 0;      ///< how long they held training up; most of their writing happens beside it
  bool interrupted = false;
  std::string unsaved;  ///< why the last step could not be saved, "" where it was; the same on every rank
  /// Of each task that has such a split, by its name.
  std::vector<std::pair<std::string, Evaluation>> validation, test;
};

/// The loss or a gradient stopped being a finite number.
class NotFiniteError : public Error {
 public:
  using Error::Error;
};

class Trainer {
 public:
  Trainer(const Recipe& recipe, const ProcessGrid& grid, TrainerEnvironment environment);
  ~Trainer();

  TrainResult run();

  // What a site of a federation does in place of run(), round by round.

  /// Takes the model of `checkpoint`, and stands before step `first_step` + 1 with an optimizer that is as if
  /// new, and before the examples that follow those of `seen` steps. What is then trained depends on these
  /// three and the recipe alone. Throws Error where the checkpoint is of another model.
  void begin_round(const std::string& checkpoint, std::int64_t first_step, std::int64_t seen);
  /// For take_steps() by a control variate.
  SiteTerms::ControlEntries control_entries() { return site_terms_.control_entries(); }
  /// Takes so many steps; false where interrupted before. With a proximal weight above 0, half of it times
  /// the squared distance from where they begin is part of the loss (FedProx, Li et al. 2020, equation 2).
  /// Throws Error where the recipe has not so many steps, or its budget of privacy not.
  bool take_steps(std::int64_t steps, const SiteRules& rules = {});
  /// Moves the parameters by minus the sum of a private step's clipped gradients. That has no noise: what is
  /// made of it must get some before anybody sees it. False where interrupted. Collective.
  bool subtract_clipped_sum();
  /// By how much the last subtract_clipped_sum() moved this rank's part of every parameter, as it was before
  /// f32 rounded it beside the parameter; named as in model_entries().
  std::vector<TensorEntry> clipped_changes();
  /// Tokens that each expert of each layer, by its name, served in the last take_steps(), over all ranks.
  const std::vector<std::pair<std::string, std::vector<double>>>& served_tokens() const { return served_; }
  /// Of every task that has such examples, by its name.
  std::vector<std::pair<std::string, Evaluation>> validate();
  /// This rank's part of the model, as checkpoints hold it.
  std::vector<TensorEntry> model_entries();
  const std::vector<std::string>& class_names() const { return corpus_.class_names; }
  /// Of this run, over all ranks.
  std::int64_t training_examples() const;
  /// Those whose privacy it is: examples, or clients; 0 without privacy.
  std::int64_t private_units() const;
  /// What so many steps spend of the examples' privacy; nothing without noise.
  std::optional<PrivacyEvent> privacy_event(std::int64_t steps) const;

  /// Saves the model as it is; throws Error where that fails. Returns the checkpoint's path.
  std::string save_now();

 private:
  struct TrainedTask;

  void start_privacy();
  void plan_memory();
  std::string tokenizer_hash() const;  // "" without texts
  void start_from();
  void resume();
  void take_folder();
  void draw_step_seed();
  void sum_clipped();
  void step();
  void choose_rounding();
  double domain_strength() const;
  RandomStream stream_of(std::int64_t micro_batch) const;
  std::size_t task_of(std::int64_t micro_batch) const;
  void forward_backward(std::size_t task, const Batch& batch, std::int64_t micro_batch, bool last);
  void check_finite(double loss, double norm_squared);
  void report(bool force);
  void save();
  std::string wait_for_save();
  CheckpointState checkpoint_state() const;
  // All tasks. First calibrates the balancers' selection for inference on so many batches, where they want
  // that.
  std::vector<std::pair<std::string, Evaluation>> evaluate(std::unique_ptr<Evaluator> TrainedTask::*evaluator,
                                                           const char* split, Index calibration_batches = 0);

  Recipe recipe_;
  const ProcessGrid& grid_;
  std::unique_ptr<DirectoryLock> lock_;  // rank 0's, of run.directory
  TrainerEnvironment environment_;
  std::string start_;  // the checkpoint of another model that this one begins with; "" for none
  Corpus corpus_;
  Arena activations_;  // after an error, the model's dispatchers wait for what is still to arrive in it
  Model model_;
  std::vector<std::pair<std::string, MoeLayer*>> layers_;
  ParameterSet parameters_;
  AdamW optimizer_;
  GradientReducer reducer_;
  SiteTerms site_terms_;
  TrainingLog log_;
  std::vector<TrainedTask> tasks_;
  SystemRandom random_;
  std::string unrecorded_;                    // why the last save() could not record what it spends, or ""
  std::unique_ptr<PrivateTraining> privacy_;  // null without
  std::unique_ptr<RunLedger> ledger_;         // null where the recipe names none
  std::optional<RangeLearning> ranges_;       // none where the model is not quantized
  std::unique_ptr<Evaluator>
      calibration_;  // of the first task's training examples, where a balancer wants it
  CheckpointWriter writer_;
  std::vector<TensorEntry> entries_;
  Schedule schedule_;
  std::int64_t steps_per_epoch_ = 0, total_steps_ = 0, step_ = 0;
  std::vector<std::pair<std::string, std::vector<double>>> served_;
  std::uint64_t step_seed_ = 0;       // of what is random in a private step, but for noise and who takes part
  std::int64_t optimizer_start_ = 0;  // the step after which the optimizer was new
  StepSums sums_;
  std::string problem_;  // what this rank first saw go wrong with its numbers
  std::vector<std::pair<std::string, Evaluation>> last_validation_;
  std::string told_;  // JSON: what the checkpoint that was resumed has of its last validation
};

}  // namespace conclave
