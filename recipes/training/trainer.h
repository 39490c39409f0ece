// Trains a model from a recipe: reads the data, plans the memory, steps, evaluates, saves, and says
// how it goes. One object per run, on every rank; all of it is collective. Its parts are in trainer.cpp
// (start and loop), trainer_memory.cpp, trainer_step.cpp, trainer_checkpoints.cpp and trainer_rounds.cpp.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "autograd/optim/adamw.h"
#include "core/schedule.h"
#include "data/prefetcher.h"
#include "federated/privacy/privacy_marks.h"
#include "federated/strategies/strategy.h"
#include "parallel/checkpoint/checkpoint_reader.h"
#include "parallel/checkpoint/checkpoint_writer.h"
#include "parallel/data_parallel.h"
#include "recipes/evaluation/evaluator.h"
#include "recipes/settings/recipe.h"
#include "recipes/training/private_training.h"
#include "recipes/training/run_folder.h"
#include "recipes/training/run_ledger.h"
#include "recipes/training/site_terms.h"
#include "recipes/training/step_sums.h"
#include "recipes/training/training_log.h"

namespace conclave {

/// What the trainer needs from its surroundings.
struct TrainerEnvironment {
  std::string cache_directory;  ///< for trained tokenizers
  std::string host = "localhost";
  ProgressOptions progress;
  const std::atomic<bool>* interrupted = nullptr;  ///< set by a signal: finish the step, save, stop
  std::string resume;  ///< "": start anew; "auto": the newest checkpoint; else a path
  /// Where the model has its classes from elsewhere: the data may lack some of them. Else they are the
  /// data's.
  std::optional<ModelClasses> classes = {};

  bool is_interrupted() const { return interrupted && *interrupted; }
};

struct TrainResult {
  std::int64_t steps = 0;       ///< all that the model was trained for
  std::int64_t taken = 0;       ///< those of this run, which may have been resumed
  double train_seconds = 0;     ///< stepping, without start-up and the final evaluation
  double seconds_per_step = 0;  ///< mean over this run, without the time for saving
  std::int64_t saves = 0;       ///< checkpoints begun
  double save_seconds = 0;      ///< how long checkpoints held training up; most of the writing happens in the
                                ///< background
  bool interrupted = false;
  std::string unsaved;  ///< why the last step could not be saved, or ""; the same on every rank
  /// By name of the task, for each that has such a split.
  std::vector<std::pair<std::string, Evaluation>> validation, test;
};

/// The loss, a gradient or, with privacy, a weight is not finite.
class NotFiniteError : public Error {
 public:
  using Error::Error;
};

class Trainer {
 public:
  /// Reads the data, builds the model, plans the memory and, if environment.resume says so, loads a
  /// checkpoint. `grid` must outlive this. Throws Error if the recipe, the data, the checkpoint or the folder
  /// do not fit.
  Trainer(const Recipe& recipe, const ProcessGrid& grid, TrainerEnvironment environment);
  ~Trainer();

  /// Trains to the last step, or until interrupted; then evaluates on the test splits. A checkpoint that
  /// cannot be saved is a warning, and at the end is in TrainResult::unsaved. Throws NotFiniteError.
  TrainResult run();

  // The following is for a site of a federation, round by round, in place of run().

  /// Loads the model of `checkpoint`, resets the optimizer, and continues with step `first_step` + 1 and with
  /// the examples that follow those of `seen` steps. The training that follows depends only on these three
  /// and the recipe, and with privacy on random numbers. Throws Error if the checkpoint does not fit the
  /// model.
  void begin_round(const std::string& checkpoint, std::int64_t first_step, std::int64_t seen);
  /// Call before take_steps() with a control variate.
  SiteTerms::ControlEntries control_entries() { return site_terms_.control_entries(); }
  /// Takes this many steps; returns false if interrupted before. With a proximal weight above 0, the loss
  /// includes half of the weight times the squared distance from the first step's parameters (FedProx, Li et
  /// al. 2020, equation 2). Throws Error if the recipe, or its privacy budget, does not have that many steps.
  bool take_steps(std::int64_t steps, const SiteRules& rules = {});
  /// Subtracts the sum of a private step's clipped gradients from the parameters. The sum has no noise: the
  /// caller must add noise before the result leaves the site. Returns false if interrupted. Collective.
  bool subtract_clipped_sum();
  /// The change that the last subtract_clipped_sum() made to this rank's part of every parameter, without the
  /// f32 rounding of the changed parameter; named as in model_entries().
  std::vector<TensorEntry> clipped_changes();
  /// By name of the layer: the tokens that each expert served in the last take_steps(), over all ranks.
  const std::vector<std::pair<std::string, std::vector<double>>>& served_tokens() const { return served_; }
  /// By name of the task, for every task that has such examples.
  std::vector<std::pair<std::string, Evaluation>> validate();
  /// This rank's part of the model, as checkpoints store it.
  std::vector<TensorEntry> model_entries();
  /// The size of the first task's training split.
  std::int64_t training_examples() const;
  /// The units of privacy: examples, or clients; 0 without privacy.
  std::int64_t private_units() const;
  /// What this many steps spend of the examples' privacy; none without noise.
  std::optional<PrivacyEvent> privacy_event(std::int64_t steps) const;

  /// Saves the model as it is; throws Error where that fails. Returns the checkpoint's path. `privacy`: what
  /// was spent, if the caller accounts for it. `begun_from`: metadata of the model that these parameters were
  /// read from, if the caller read them; the checkpoint says what that model had spent.
  std::string save_now(const std::optional<PrivacyMark>& privacy = std::nullopt,
                       const std::string& begun_from = "");

 private:
  struct TrainedTask;

  void start_privacy();
  void plan_memory();
  std::string tokenizer_hash() const;  // "" without texts
  void start_from();
  void resume();
  void warn_of_other_data(const nlohmann::json& known);
  void sum_clipped();
  void step();  // take_step(), and its trace if the recipe wants one
  void take_step();
  void compute_gradients();
  double sum_over_ranks();
  void balance();
  void choose_rounding();
  double domain_strength() const;
  RandomStream stream_of(std::int64_t micro_batch) const;
  std::size_t task_of(std::int64_t micro_batch) const;
  void forward_backward(std::size_t task, const Batch& batch, std::int64_t micro_batch, bool last);
  void check_finite(double loss, double norm_squared);
  void check_weights();
  [[noreturn]] void end_not_finite(std::int64_t step, const std::string& what);
  void report(bool force);
  void save();
  std::string wait_for_save();
  CheckpointState checkpoint_state() const;
  void add_measurements(nlohmann::json& metadata) const;
  // Evaluates all tasks. Before that, calibrates the selection for inference on this many batches, for
  // balancers that want it.
  std::vector<std::pair<std::string, Evaluation>> evaluate(std::unique_ptr<Evaluator> TrainedTask::*evaluator,
                                                           const char* split, Index calibration_batches = 0);

  Recipe recipe_;
  const ProcessGrid& grid_;
  RunFolder folder_;
  TrainerEnvironment environment_;
  std::string start_;  // checkpoint of another model to start from; "" for none
  Corpus corpus_;
  Arena activations_;  // before model_, so that it outlives the model: after an error, dispatchers wait for
                       // messages that arrive in it
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
  std::unique_ptr<PrivateTraining> privacy_;  // null without privacy
  std::unique_ptr<RunLedger> ledger_;         // null if the recipe names none
  std::optional<RangeLearning> ranges_;       // none if the model is not quantized
  std::unique_ptr<Evaluator> calibration_;    // on the first task's training examples, if a balancer wants it
  CheckpointWriter writer_;
  std::vector<TensorEntry> entries_;
  Schedule schedule_;
  double steps_per_epoch_ = 0;  // of the first task's training split
  std::int64_t total_steps_ = 0, step_ = 0;
  std::vector<std::pair<std::string, std::vector<double>>> served_;
  std::uint64_t step_seed_ = 0;       // for the randomness of a private step, except noise and sampling
  std::int64_t optimizer_start_ = 0;  // the step after which the optimizer was reset
  std::int64_t missed_steps_ = 0;     // steps so far that were other sites' alone
  StepSums sums_;
  std::string problem_;  // the first numerical problem that this rank saw
  std::vector<std::pair<std::string, Evaluation>> last_validation_;
  std::optional<PrivacyMark> privacy_mark_;  // the caller's, for the checkpoint
  std::string privacy_before_ = "[]";        // JSON: see federated/privacy/privacy_marks.h
  std::int64_t validated_at_ = 0;            // the step of last_validation_
  std::string told_;                         // JSON: the last validation in the checkpoint that was resumed
};

}  // namespace conclave
