#include "recipes/training/trainer.h"

#include <algorithm>
#include <cmath>

#include "core/clock.h"
#include "data/bigrams.h"
#include "recipes/models/loaded_model.h"
#include "recipes/models/model_state.h"
#include "recipes/models/use_precision.h"
#include "recipes/training/trained_task.h"

namespace conclave {
Trainer::Trainer(const Recipe& recipe, const ProcessGrid& grid, TrainerEnvironment environment)
    : recipe_(recipe),
      grid_(grid),
      folder_(recipe.run.directory, grid.world()),
      environment_([&] {
        environment.resume = folder_.find(environment.resume);
        return std::move(environment);
      }()),
      start_(environment_.resume.empty() ? find_start(recipe, grid.world()) : ""),
      corpus_(load_corpus(
          recipe, grid.world(), environment_.cache_directory,
          first_tokenizer(recipe, start_.empty() ? environment_.resume : start_, recipe.privacy.is_on()),
          environment_.classes)),
      activations_("activations", 0, grid.device()),
      model_(recipe, corpus_.sizes(recipe.data), grid),
      layers_(model_.moe_layers()),
      parameters_(model_, DType::f32, static_cast<std::uint64_t>(recipe.run.seed), grid.device()),
      optimizer_(parameters_, {.beta1 = recipe.train.beta1,
                               .beta2 = recipe.train.beta2,
                               .epsilon = recipe.train.epsilon,
                               .weight_decay = recipe.train.weight_decay,
                               .adaptive = recipe.train.optimizer == "adamw",
                               .ema = recipe.train.ema}),
      reducer_(parameters_, grid, static_cast<std::size_t>(recipe.parallel.bucket_kib) * 1024),
      site_terms_(parameters_),
      log_(recipe_, model_, grid.world(), environment_.progress),
      writer_(recipe.run.directory, grid.world(), static_cast<int>(recipe.checkpoint.keep),
              recipe.checkpoint.asynchronous, [](const SaveOutcome& outcome) {
                if (!outcome.saved) warn_unsaved(outcome.step, outcome.message);
              }) {
  double weights = 0;
  for (const Task* task : model_.tasks()) weights += recipe.tasks.weight(task->kind());
  for (std::size_t t = 0; t < model_.tasks().size(); ++t) {
    Task& task = *model_.tasks()[t];
    const TaskSplits& splits = corpus_.tasks[t];
    DynamicBatcher batches(splits.train, training_batches(recipe, task, grid.world()));
    require(batches.batches_per_epoch() > 0, "the training split is empty; give [data] rows to train on");
    log_.describe(task, corpus_, splits, batches.batches_per_epoch(), batches.padding());
    const double share = recipe.tasks.weight(task.kind()) / weights;
    if (t == 0 && recipe.privacy.is_on())
      steps_per_epoch_ = static_cast<double>(PrivateTraining::steps_per_epoch(recipe.privacy, splits.train));
    else if (t == 0)
      steps_per_epoch_ = steps_of_epoch(recipe.train, batches.batches_per_epoch(), share);
    const std::int64_t batches_per_epoch = batches.batches_per_epoch();
    auto drawn = recipe.privacy.is_on() ? std::make_unique<DynamicBatcher>(batches) : nullptr;
    tasks_.push_back({&task, &splits, share, batches_per_epoch,
                      std::make_unique<Prefetcher>(std::move(batches)), std::move(drawn)});
  }
  total_steps_ =
      recipe.train.steps > 0 ? recipe.train.steps : steps_of_epochs(recipe.train, steps_per_epoch_);
  if (recipe.privacy.is_on()) start_privacy();
  schedule_ = {.kind = schedule_from(recipe.train.schedule),
               .peak = recipe.train.learning_rate,
               .final = recipe.train.final_learning_rate,
               .warmup_steps = std::lround(recipe.train.warmup * static_cast<double>(total_steps_)),
               .total_steps = total_steps_};
  const auto evaluator = [&](const TrainedTask& one, const TokenizedSplit& split,
                             std::optional<std::uint64_t> shuffle = std::nullopt) {
    return std::make_unique<Evaluator>(model_, *one.task, split, recipe, activations_, grid, shuffle);
  };
  for (TrainedTask& one : tasks_) {
    one.validation = evaluator(one, one.splits->validation);
    one.test = evaluator(one, one.splits->test);
  }
  const TrainedTask& first = tasks_.front();
  if (std::ranges::any_of(layers_, [](const auto& named) { return named.second->balancer().calibrates(); }))
    calibration_ = evaluator(first, first.splits->train, recipe.run.seed);
  if (model_.wide() && environment_.resume.empty())  // else the checkpoint has them
    model_.wide()->set_bigrams(frequent_bigrams(first.splits->train, recipe.model.bigrams));
  entries_ = training_entries(parameters_, model_, optimizer_);
  use_precision(recipe.run);
  log_.say(fmt::format("ranks: {} = {} expert-parallel x {} data-parallel, {} threads each, on {}{}",
                       grid.world().size(), grid.expert_parallel(), grid.data_parallel(),
                       omp_get_max_threads(), name_of(grid.device()),
                       describe_precision(recipe.run, grid.device())));
  plan_memory();
  if (environment_.resume.empty())
    start_from();
  else
    resume();
  if (privacy_ && !recipe.privacy.ledger.empty()) {
    ledger_ = std::make_unique<RunLedger>(recipe_, *privacy_, total_steps_, grid.world());
    if (!ledger_->told().empty()) log_.say(ledger_->told());
  }
  if (const std::string aside = folder_.take(environment_.resume, step_); !aside.empty()) log_.say(aside);
  log_.write_metrics(folder_, environment_.host);
}

Trainer::~Trainer() = default;

void Trainer::start_privacy() {
  const PrivacyRecipe& recipe = recipe_.privacy;
  const std::int64_t wanted = total_steps_;
  privacy_ = std::make_unique<PrivateTraining>(recipe, tasks_.front().splits->train, wanted, grid_, random_);
  privacy_->noise_of(parameters_);  // throws now rather than after a step
  total_steps_ = privacy_->steps();
  log_.say(fmt::format(
      "privacy: of {} steps with {} of {} {} on average (each with probability {:.5f}), noise of "
      "{:.4f} x {}: epsilon {:.3f} at delta {}{}",
      total_steps_, std::lround(privacy_->batch()), privacy_->units(),
      recipe.of_clients() ? "clients" : "examples", privacy_->sampling_rate(), privacy_->noise_multiplier(),
      recipe.clip_norm, privacy_->epsilon(total_steps_), recipe.delta,
      total_steps_ < wanted ? fmt::format("; the budget of {} has no room for the other {} steps",
                                          recipe.epsilon, wanted - total_steps_)
                            : ""));
  require(total_steps_ > 0,
          "privacy.epsilon = {}: one step with privacy.noise_multiplier = {} exceeds it; raise either, or "
          "set noise_multiplier to 0, which chooses the noise",
          recipe.epsilon, recipe.noise_multiplier);
}

std::string Trainer::tokenizer_hash() const { return corpus_.tokenizer ? corpus_.tokenizer->hash() : ""; }

void Trainer::report(bool force) {
  if (sums_.window_steps == 0 || (!force && step_ % recipe_.run.log_every != 0 && step_ != total_steps_))
    return;
  StepReport so_far;
  so_far.step = step_;
  so_far.total_steps = total_steps_;
  so_far.epoch = static_cast<double>(step_) / steps_per_epoch_;
  const StepReport report = sums_.report(so_far);
  if (grid_.world().rank() == 0) {  // on rank 0 alone, because the accountant takes time
    const auto spent = privacy_ ? std::optional(privacy_->epsilon(privacy_->released())) : std::nullopt;
    log_.steps(report, sums_.as_metrics(report, spent));
  }
  sums_.begin_window();
}

std::vector<std::pair<std::string, Evaluation>> Trainer::evaluate(
    std::unique_ptr<Evaluator> TrainedTask::*evaluator, const char* split, Index calibration_batches) {
  std::vector<std::pair<std::string, Evaluation>> results;
  choose_rounding();  // by this step, as for a model that is loaded
  if (optimizer_.has_average()) optimizer_.swap_average();
  if (calibration_) calibration_->calibrate(calibration_batches);
  for (const TrainedTask& one : tasks_) {
    Evaluation result = (one.*evaluator)->run();
    if (result.sequences > 0) results.emplace_back(one.task->name(), std::move(result));
  }
  if (optimizer_.has_average()) optimizer_.swap_average();
  for (const auto& [name, layer] : layers_) layer->reset_statistics();
  for (const auto& [task, result] : results) log_.evaluation(task, split, result, step_);
  return results;
}

TrainResult Trainer::run() {
  if (recipe_.run.trace_step > total_steps_)
    log_.say(fmt::format("run.trace_step = {}: the run has {} steps, so there will be no trace",
                         recipe_.run.trace_step, total_steps_));
  TrainResult result;
  const double start = now();
  const std::int64_t first = step_;
  double evaluating = 0;
  sums_.window_start = now();
  const std::int64_t every = recipe_.train.evaluate_every > 0
                                 ? recipe_.train.evaluate_every
                                 : std::max<std::int64_t>(std::llround(steps_per_epoch_), 1);
  bool saved = false;
  while (step_ < total_steps_ && !sums_.stop) {
    step();
    const bool last = step_ == total_steps_;
    report(sums_.stop || last);
    if ((step_ % every == 0 && !sums_.stop) || last) {  // whoever stops the run wants the checkpoint first
      const double began = now();
      last_validation_ = evaluate(&TrainedTask::validation, "validation",
                                  last ? kCalibrationBatches : kFewCalibrationBatches);
      validated_at_ = step_;
      evaluating += now() - began;
      sums_.window_start += now() - began;
    }
    saved = last || sums_.stop || (recipe_.checkpoint.every > 0 && step_ % recipe_.checkpoint.every == 0);
    if (saved) save();
  }
  result.train_seconds = now() - start - evaluating;
  result.saves = sums_.saves;
  result.save_seconds = sums_.all_save_seconds;
  if (saved && !wait_for_save().empty()) {  // the cause may be gone by now
    log_.say(fmt::format("step {} could not be saved and is saved once more, because no later save follows",
                         step_));
    save();
    result.unsaved = wait_for_save();
  }
  result.steps = step_;
  result.taken = step_ - first;
  result.seconds_per_step = (result.train_seconds - result.save_seconds) /
                            static_cast<double>(std::max<std::int64_t>(step_ - first, 1));
  result.interrupted = sums_.stop && step_ < total_steps_;
  result.validation = last_validation_;
  if (result.taken == 0) log_.forget_evaluation(step_, "test");  // of the run that took the last step
  if (!result.interrupted) result.test = evaluate(&TrainedTask::test, "test");
  log_.finish();
  return result;
}

}  // namespace conclave
