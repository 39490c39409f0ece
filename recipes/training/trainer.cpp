#include "recipes/training/trainer.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "core/clock.h"
#include "core/kernels/activation.h"
#include "core/kernels/reduction.h"
#include "data/bigrams.h"
#include "federated/sha256.h"
#include "recipes/corpus/training_batches.h"
#include "recipes/models/integer_state.h"
#include "recipes/models/loaded_model.h"
#include "recipes/models/model_state.h"
#include "recipes/training/use_precision.h"

namespace conclave {
namespace {

BatcherOptions train_batches(const Recipe& recipe, const ProcessGrid& grid, const Task& task) {
  BatcherOptions options = training_batches(recipe, task);
  options.rank = grid.world().rank();
  options.ranks = grid.world().size();
  return options;
}

// Batches on which the selection for inference is calibrated before the last evaluation.
constexpr Index kCalibrationBatches = 64;

void warn_unsaved(std::int64_t step, const std::string& why) {
  fmt::print(stderr, "conclave: warning: step {} was not saved: {}\n", step, why);
}

// The path to resume from. For "auto" it is that of the newest good checkpoint, or "" if there is none. The
// same on every rank.
std::string resolve_resume(const std::string& resume, const std::string& directory, Communicator& world) {
  if (resume.empty()) return "";
  if (resume != "auto") return find_checkpoint(resume, world);
  // Verified, which reads the file once more, so that a damaged checkpoint does not end the job at every
  // restart.
  return from_first(world, [&] { return newest_told(directory, true).value_or(""); });
}

// Two runs in one folder would set aside and remove each other's checkpoints, so a run locks its folder. A
// killed run may take a moment to end, for which the lock waits. Unless `is_to_be`, only a folder that exists
// is locked, so that a run that fails on a mistake leaves no folder behind. Collective.
void lock(const std::string& directory, bool is_to_be, Communicator& world,
          std::unique_ptr<DirectoryLock>& held) {
  from_first(world, [&] {
    if (!held && (is_to_be || std::filesystem::exists(directory)))
      held = std::make_unique<DirectoryLock>(directory, 3);
    return std::string();
  });
}

}  // namespace

struct Trainer::TrainedTask {
  Task* task;
  const TaskSplits* splits;
  double share;  // in the micro-batches
  std::int64_t batches_per_epoch;
  std::unique_ptr<Prefetcher> batches;
  std::unique_ptr<DynamicBatcher> drawn = {};  // in place of `batches`, if examples are drawn one by one
  std::unique_ptr<Evaluator> validation = {}, test = {};
  std::uint64_t checksum = checksum_of(splits->train);

  // By what a resumed run recognizes its data.
  nlohmann::json data_mark() const {
    return {{"examples", splits->train.size()}, {"xxh3", fmt::format("{:016x}", checksum)}};
  }
};

Trainer::Trainer(const Recipe& recipe, const ProcessGrid& grid, TrainerEnvironment environment)
    : recipe_(recipe),
      grid_(grid),
      environment_([&] {
        lock(recipe.run.directory, false, grid.world(), lock_);
        environment.resume = resolve_resume(environment.resume, recipe.run.directory, grid.world());
        return std::move(environment);
      }()),
      start_(environment_.resume.empty() ? find_start(recipe, grid.world()) : ""),
      corpus_(load_corpus(
          recipe, grid.world(), environment_.cache_directory,
          first_tokenizer(recipe, start_.empty() ? environment_.resume : start_, recipe.privacy.is_on()))),
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
    DynamicBatcher batches(splits.train, train_batches(recipe, grid, task));
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
  lock(recipe.run.directory, true, grid.world(), lock_);
  take_folder();
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

void Trainer::plan_memory() {
  Batch largest;
  std::vector<std::function<void()>> passes;
  for (std::size_t t = 0; t < tasks_.size(); ++t) {
    TrainedTask& one = tasks_[t];
    const auto batcher =
        std::make_shared<DynamicBatcher>(one.splits->train, train_batches(recipe_, grid_, *one.task));
    for (const auto most : batcher->extremes())
      passes.emplace_back([this, t, most, batcher, &largest] {
        batcher->fill_largest(largest, most);
        forward_backward(t, largest, 0, false);
        activations_.reset();
      });
    for (Evaluator* evaluator : {one.validation.get(), one.test.get()})
      passes.emplace_back([evaluator] { evaluator->plan(); });
  }
  // A dispatcher's buffer grows to the largest batch of any pass. A pass that was planned before it grew
  // needs more memory than it showed, so passes are repeated until no buffer grows.
  const auto dispatched = [&] {
    Index rows = 0;
    for (const auto& [name, layer] : layers_) rows += layer->dispatcher().capacity();
    grid_.world().all_reduce(Tensor::borrow(&rows, {1}, DType::i64));
    return rows;
  };
  std::vector<Index> planned(passes.size(), -1);
  for (bool grows = true; grows;) {
    grows = false;
    for (std::size_t i = 0; i < passes.size(); ++i) {
      if (planned[i] == dispatched()) continue;
      passes[i]();
      planned[i] = dispatched();
      grows = true;
    }
  }
  // Rows of a few dozen bytes are rounded up to cache lines, differently in every batch.
  activations_.seal(std::size_t{1} << 16, 1.0 / 64);
  parameters_.zero_gradients();
  if (Quantization* quantization = model_.quantization()) ranges_.emplace(*quantization, grid_.world());
  for (const auto& [name, layer] : layers_) layer->reset_statistics();
  const std::size_t staging = writer_.prepare(entries_);
  log_.say(fmt::format("model: {} parameters ({} on this rank)", grid_.world().size() == 1 ? parameters_.elements() : [&] {
    Index total = 0;
    for (const Parameter* parameter : parameters_.parameters()) total += parameter->global_shape().numel();
    return total;
  }(), parameters_.elements()));
  if (!layers_.empty() && layers_.front().second->experts().kinds().size() > 1) {
    std::vector<std::string> kinds;
    for (const auto& kind : layers_.front().second->experts().kinds())
      kinds.push_back(fmt::format("{} {} of {:.1f} kFLOP per row", kind.total, kind.experts->name(),
                                  kind.experts->flops_per_row() / 1e3));
    log_.say(fmt::format("experts of a layer: {}", fmt::join(kinds, ", ")));
  }
  log_.say(fmt::format(
      "memory per rank: parameters {}, gradients {}, optimizer {}, activations {}, checkpoint staging {}",
      format_bytes(parameters_.values().capacity()), format_bytes(parameters_.gradients().capacity()),
      format_bytes(optimizer_.state().capacity()), format_bytes(activations_.capacity()),
      format_bytes(staging)));
  std::vector<std::string_view> names;
  for (const TrainedTask& one : tasks_) names.push_back(one.task->name());
  sums_.lay_out(layers_, names, recipe_.moe.experts);
  sums_.timed = grid_.device() == Device::cpu;
}

// Loads the tensors that fit. What the other model lacks or has in another size, such as a head for other
// classes, keeps its initial values.
void Trainer::start_from() {
  if (start_.empty()) return;
  const CheckpointReader reader(start_, grid_.world());
  std::vector<TensorEntry> entries = model_entries();
  const std::size_t all = entries.size();
  const auto has = [&](const TensorEntry& entry) {
    return reader.has(entry.name) && reader.shape(entry.name) == entry.global_shape;
  };
  expect_no_integers(reader, entries);
  // Bigrams number the rows of the weight, so they are loaded only together with it.
  const auto weight = std::ranges::find(entries, "model/wide/weight", &TensorEntry::name);
  const bool other_bigrams = weight != entries.end() && !has(*weight);
  std::erase_if(entries, [&](const TensorEntry& entry) {
    return !has(entry) || (other_bigrams && entry.name == "model/wide/bigrams");
  });
  require(!entries.empty(), "train.start_from: no tensor of {} has the name and shape of one of this model's",
          start_);
  reader.load(entries);
  optimizer_.restart_average();
  for (const auto& [name, layer] : layers_) layer->balancer().restart();
  log_.say(fmt::format(
      "started from {}: {} of {} tensors{}", start_, entries.size(), all,
      privacy_ ? "; what that model reveals about its examples is not counted: it is taken to be public"
               : ""));
}

void Trainer::resume() {
  const CheckpointReader reader(environment_.resume, grid_.world());
  const auto metadata = nlohmann::json::parse(reader.state().metadata);
  expect_same_classes(environment_.resume, metadata.at("class_names"), corpus_.class_names);
  expect_no_integers(reader, entries_);
  // A checkpoint with an average must have the weights that were trained, too, and the reverse.
  require(reader.has(tensor_path("optimizer/trained", model_.named_parameters().front().first)) ==
              optimizer_.has_average(),
          "{}: {}; resume with train.ema as it was, or begin a run with its weights by train.start_from",
          environment_.resume,
          optimizer_.has_average() ? "it has no moving average of its weights"
                                   : "its weights are a moving average");
  reader.load(entries_);
  step_ = reader.state().step;
  require(metadata.at("tokenizer_hash") == tokenizer_hash(), "{}: its tokenizer does not match its metadata",
          environment_.resume);
  if (privacy_) {
    require(metadata.contains("privacy"),
            "{}: it was trained without privacy, which cannot be added afterwards; start a new run",
            environment_.resume);
    const auto& spent = metadata.at("privacy");
    require(spent.value("unit", "record") == recipe_.privacy.unit,
            "{}: its unit of privacy was a {}, and that of later steps would be a {}; resume with the recipe "
            "and the data as they were",
            environment_.resume, spent.value("unit", "record"), recipe_.privacy.unit);
    require(spent.at("noise_multiplier") == privacy_->noise_multiplier() &&
                spent.at("sampling_rate") == privacy_->sampling_rate(),
            "{}: its steps had noise of {} and a sampling rate of {}, and later steps would have {} and {}; "
            "resume with the recipe and the data as they were",
            environment_.resume, spent.at("noise_multiplier").dump(), spent.at("sampling_rate").dump(),
            privacy_->noise_multiplier(), privacy_->sampling_rate());
    std::string name = spent.value("name", "");
    // Earlier versions gave no name. A name from the file lets a ledger recognize the steps when the same
    // checkpoint is resumed again.
    if (name.empty()) name = from_first(grid_.world(), [&] { return sha256_of(environment_.resume); });
    privacy_->go_on_from(spent.at("steps"), name);
  }
  auto told = nlohmann::json::object();
  for (const char* what : {"metrics", "routing"})
    if (metadata.contains(what)) told[what] = metadata[what];
  told_ = told.dump();
  for (TrainedTask& one : tasks_) {
    const auto& of_task = metadata.at("data_position").at(one.task->name());
    const DataPosition position{of_task.at("epoch"), of_task.at("batch")};
    require(
        position.batch <= one.batches_per_epoch,
        "{}: it is at batch {} of an epoch, which has {} with this data and train.batch_tokens = {}; resume "
        "with both as they were, or begin a run with its weights by train.start_from",
        environment_.resume, position.batch, one.batches_per_epoch, recipe_.train.batch_tokens);
    one.batches->seek(position);
  }
  log_.say(fmt::format("resumed from {} at step {}", environment_.resume, step_));
  if (!privacy_) warn_of_other_data(metadata.value("training_data", nlohmann::json::object()));
  try {
    const std::string name = environment_.resume + ":/state/recipe";
    const auto changed = changed_keys(parse_recipe(reader.state().recipe, name), recipe_);
    if (!changed.empty())
      log_.say(fmt::format("the recipe is not that checkpoint's: {}", fmt::join(changed, ", ")));
  } catch (const RecipeError& error) {  // for example an earlier version's
    log_.say(fmt::format("warning: this recipe cannot be compared with the checkpoint's: {}", error.what()));
  }
  require(step_ <= total_steps_, "{}: it is at step {}, but {} gives {} steps in all; set that to more",
          environment_.resume, step_,
          recipe_.train.steps > 0 ? "train.steps"
          : privacy_              ? "train.epochs and privacy.epsilon"
                                  : "train.epochs",
          total_steps_);
  if (step_ == total_steps_) log_.say("no steps are left; what follows is measured on the model as it is");
}

// `known` is what a checkpoint says of its training data; earlier versions' say nothing.
void Trainer::warn_of_other_data(const nlohmann::json& known) {
  for (const TrainedTask& one : tasks_) {
    const auto found = known.find(one.task->name());
    if (found == known.end()) continue;
    const nlohmann::json read = one.data_mark();
    if (*found == read) continue;
    log_.say(fmt::format(
        "warning: the data is not that of the checkpoint: for task {}, it had {} training examples, and {}; "
        "the rest of the epoch is not what the checkpoint's run had left over",
        one.task->name(), found->value("examples", 0),
        found->value("examples", 0) == read["examples"]
            ? std::string("now there are as many with other lengths or labels, or in another order")
            : fmt::format("now there are {}", read["examples"].get<std::int64_t>())));
  }
}

// Sets aside the checkpoints of an earlier run in the folder that this run does not continue.
void Trainer::take_folder() {
  if (grid_.world().rank() != 0) return;
  const std::string& directory = recipe_.run.directory;
  const std::filesystem::path resumed = environment_.resume;
  std::error_code ignored;
  const bool goes_on =
      !resumed.empty() &&
      std::filesystem::equivalent(std::filesystem::absolute(resumed).parent_path(), directory, ignored);
  const auto with_metrics = [&](const std::string& folder) {
    (goes_on ? copy_metrics : move_metrics)(directory, folder);
  };
  // Metrics without checkpoints are kept by a resumed run: somebody may have copied them for it.
  const bool always = resumed.empty() && has_metrics(directory);
  if (const SetAside aside = set_aside_checkpoints(directory, goes_on ? step_ : -1, with_metrics, always);
      !aside.folder.empty())
    log_.say(fmt::format("{} that this run does not go on from are now in {}",
                         aside.checkpoints > 0 ? fmt::format("{} checkpoints", aside.checkpoints) : "metrics",
                         aside.folder));
  log_.write_metrics(directory, environment_.host, step_ == 0 ? 0 : step_ + 1);
}

// Switches rounding on from quantization.start_step on. Memory was planned with rounding.
void Trainer::choose_rounding() {
  if (Quantization* quantization = model_.quantization())
    quantization->rounds = step_ >= recipe_.quantization.start_step;
}

double Trainer::domain_strength() const {
  const double steps = recipe_.moe.domain_steps * static_cast<double>(total_steps_);
  return steps > 0 ? std::max(0.0, 1.0 - static_cast<double>(step_) / steps) : 0.0;
}

// Drawn for every micro-batch, and the same on all ranks.
std::size_t Trainer::task_of(std::int64_t micro_batch) const {
  if (tasks_.size() == 1) return 0;
  const RandomStream stream = stream_of(micro_batch);
  double drawn = stream.uniform(0);
  for (std::size_t t = 0; t + 1 < tasks_.size(); ++t)
    if ((drawn -= tasks_[t].share) < 0) return t;
  return tasks_.size() - 1;
}

// task_of() uses the first number of a micro-batch.
RandomStream Trainer::stream_of(std::int64_t micro_batch) const {
  static_assert(TrainRecipe::kMostAccumulate <= kMostBatchesPerStep);
  return {.seed = privacy_ ? step_seed_ : static_cast<std::uint64_t>(recipe_.run.seed),
          .step = static_cast<std::uint32_t>(step_ + 1),
          .tensor = first_stream(micro_batch)};
}

void Trainer::forward_backward(std::size_t number, const Batch& batch, std::int64_t micro_batch, bool last) {
  activations_.reset();
  Tape tape(activations_);
  const auto accumulate = static_cast<double>(recipe_.train.accumulate);
  const ModelInput input = model_input(batch);
  ForwardContext context{.training = true,
                         .stream = stream_of(micro_batch),
                         .first_token = batch.first_token,
                         .first_sequence = batch.first_sequence,
                         .global_tokens = batch.global_tokens,
                         // With privacy, an example's loss must not depend on the number of examples.
                         .global_sequences = privacy_ ? 1 : batch.global_sequences,
                         .loss_scale = 1.0 / accumulate,
                         .in_domain = input.in_domain,
                         .domain_strength = domain_strength(),
                         .global_images = batch.global_images};
  std::optional<ExampleGradients> apart;
  if (privacy_)
    tape.tell_examples_apart(apart.emplace(activations_, batch.global_sequences, batch.first_sequence));
  const TaskOutput output = (*tasks_[number].task)(tape, context, input);
  const TaskOutput::Losses losses = output.losses_of_terms(tape, accumulate);
  if (last) reducer_.arm();
  tape.backward(losses);
  // On a device, the host waits for this sum, so backward is queued before. It changes no forward output that
  // first_non_finite() reads; add_clipped() does, with privacy.
  const double loss = kernels::sum(output.losses);
  if (!privacy_ && !std::isfinite(loss) && problem_.empty()) {
    const char* function = tape.first_non_finite();
    problem_ = fmt::format("rank {}: first in {} ({})", grid_.world().rank(), tape.non_finite_scope(),
                           function ? function : "loss");
  }
  if (apart) privacy_->add_clipped(*apart);

  for (const auto& [name, layer] : layers_)
    if (layer->balancer().wants_gradients())
      layer->attribute_losses(tape, output.sequence_losses, input.offsets);
  // The next micro-batch resets this arena while asynchronous copies from its host memory may still be
  // pending, so wait for the device. on_host() waits, too.
  const Tensor correct = output.correct.defined() ? tape.on_host(output.correct) : Tensor();
  if (!correct.defined()) synchronize(grid_.device());
  if (sums_.message.empty()) return;  // planning
  const auto sums = sums_.task(number);
  sums[StepSums::loss] += loss;
  sums[StepSums::guesses] += static_cast<double>(output.losses.numel());
  if (correct.defined()) {
    for (const std::uint8_t right : correct.span<std::uint8_t>()) sums[StepSums::right] += right;
    sums[StepSums::judged] += static_cast<double>(correct.numel());
  }
  sums_.message[StepSums::tokens] += static_cast<double>(batch.local_tokens());
}

// Dropout depends on an example's place in the batch, and so on which other examples were drawn. Whoever knew
// the masks could infer which. With privacy, they therefore come from a seed that is drawn for the step and
// never stored.
void Trainer::draw_step_seed() {
  if (grid_.world().rank() == 0) random_.fill(std::as_writable_bytes(std::span(&step_seed_, 1)));
  grid_.world().broadcast(Tensor::borrow(&step_seed_, {1}, DType::i64), 0);
}

// Sums the clipped gradients of a step's examples, over all ranks.
void Trainer::sum_clipped() {
  draw_step_seed();
  std::int64_t micro = 0;
  privacy_->for_batches(*tasks_.front().drawn, step_,
                        [&](const Batch& batch) { forward_backward(0, batch, micro++, false); });
  reducer_.arm();
  reducer_.finish();
}

void Trainer::step() {
  StepSums& sums = sums_;
  choose_rounding();
  std::ranges::fill(sums.message, 0.0);
  parameters_.zero_gradients();
  if (privacy_) {
    sum_clipped();
    privacy_->release(parameters_);
  } else {
    for (std::int64_t micro = 0; micro < recipe_.train.accumulate; ++micro) {
      const std::size_t task = task_of(micro);
      forward_backward(task, tasks_[task].batches->next(), micro, micro + 1 == recipe_.train.accumulate);
    }
    reducer_.finish();
  }
  for (std::size_t l = 0; l < layers_.size(); ++l) {
    MoeLayer& layer = *layers_[l].second;
    if (!layer.balancer().wants_gradients()) continue;
    layer.add_gradient_squares(sums.layer_sums[l].gradient_squares);
    layer.weight_gradients();
  }

  site_terms_.add_to_gradients();

  double norm_squared = 0;
  for (const auto& segment : parameters_.segments()) {
    const double part = kernels::sum_of_squares(segment.gradients);
    if (segment.sharded)
      sums.message[StepSums::expert_norm] += part / grid_.data_parallel();
    else
      norm_squared += part;
  }
  sums.message[StepSums::interrupted] = environment_.is_interrupted() ? 1.0 : 0.0;
  for (std::size_t l = 0; l < layers_.size(); ++l) {
    const MoeStatistics& statistics = layers_[l].second->statistics();
    auto& layer = sums.layer_sums[l];
    std::ranges::copy(statistics.load, layer.load.begin());
    if (layer.loss.empty()) continue;
    std::ranges::copy(statistics.loss, layer.loss.begin());
    std::ranges::copy(statistics.weight, layer.weight.begin());
  }
  grid_.world().all_reduce(
      Tensor::borrow(sums.message.data(), {static_cast<Index>(sums.message.size())}, DType::f64));
  norm_squared += sums.message[StepSums::expert_norm];
  double loss = 0;
  for (std::size_t t = 0; t < tasks_.size(); ++t) loss += sums.task(t)[StepSums::loss];
  // In a private step, a loss may be infinite or NaN: that example is left out of the sum. Ending here would
  // reveal, without noise, that the example is among the data.
  check_finite(privacy_ ? 0.0 : loss, norm_squared);

  ++step_;
  sums.gradient_norm = std::sqrt(norm_squared);
  sums.learning_rate = schedule_.at(step_);
  optimizer_.update(step_ - optimizer_start_, sums.learning_rate,
                    clip_scale(sums.gradient_norm, recipe_.train.clip_norm));
  if (privacy_) check_weights();

  if (ranges_) ranges_->learn();

  for (std::size_t l = 0; l < layers_.size(); ++l) {
    auto& signals = sums.layer_sums[l];
    for (std::size_t e = 0; e < signals.rows.size(); ++e) {
      signals.rows[e] = static_cast<Index>(signals.load[e]);
      sums.load_sum[l][e] += signals.load[e];
      if (!served_.empty()) served_[l].second[e] += signals.load[e];
      if (signals.loss.empty()) continue;
      signals.gradient_norm[e] = std::sqrt(signals.gradient_squares[e]);
      signals.mean_loss[e] = signals.weight[e] > 0 ? signals.loss[e] / signals.weight[e] : 0;
    }
    sums.layers[l].utilization += utilization(signals.rows);
    MoeLayer& layer = *layers_[l].second;
    layer.balancer().update({signals.rows, signals.gradient_norm, signals.mean_loss});
    sums.layers[l].milliseconds += 1e3 * layer.statistics().seconds;
    sums.balancing_seconds[l] += layer.statistics().balancing_seconds;
    layer.reset_statistics();
  }
  for (std::size_t i = 0; i < sums.window.size(); ++i) sums.window[i] += sums.message[i];
  ++sums.window_steps;
  sums.stop = sums.message[StepSums::interrupted] > 0;
}

void Trainer::check_finite(double loss, double norm_squared) {
  if (std::isfinite(loss) && std::isfinite(norm_squared)) return;
  if (std::isfinite(loss)) {  // backward went wrong first at the parameter nearest to the loss
    const auto parameters = model_.named_parameters();
    const auto bad = std::find_if(parameters.rbegin(), parameters.rend(), [](const auto& named) {
      return !std::isfinite(kernels::sum_of_squares(named.second->slot.gradient));
    });
    if (bad != parameters.rend())
      problem_ = fmt::format("rank {}: first that of {}", grid_.world().rank(), bad->first);
  }
  end_not_finite(step_ + 1, std::isfinite(loss) ? "gradient is" : "loss is");
}

// If the weights are not finite, a private step leaves out every example, and its noisy gradient is finite.
// So the weights are checked themselves. They are computed from noisy sums alone: ending because of them
// reveals nothing more.
void Trainer::check_weights() {
  double bad = 0;
  for (const auto& segment : parameters_.segments())
    if (!kernels::all_finite(segment.values)) ++bad;
  grid_.world().all_reduce(Tensor::borrow(&bad, {1}, DType::f64));
  if (bad == 0) return;
  for (const auto& [name, parameter] : model_.named_parameters())
    if (problem_.empty() && !kernels::all_finite(parameter->value))
      problem_ = fmt::format("rank {}: first those of {}", grid_.world().rank(), name);
  end_not_finite(step_, "weights are");
}

void Trainer::end_not_finite(std::int64_t step, const std::string& what) {
  std::string where;
  for (const std::string& text : grid_.world().all_gather(problem_))
    if (!text.empty()) where += (where.empty() ? "" : "; ") + text;
  writer_.wait();
  // What is not finite was computed with the weights of step_, which the checkpoint of that step has, too.
  const std::string last = from_first(grid_.world(), [&] {
    const std::string& folder = recipe_.run.directory;
    if (const auto before = newest_checkpoint(folder, nullptr, false, step_ - 1))
      return "The last checkpoint before that is intact: " + *before;
    const std::string of_step = newest_checkpoint(folder).value_or("");
    return of_step.empty()
               ? std::string("There is no checkpoint yet")
               : "There is no checkpoint from before that; the weights of this one lead to it: " + of_step;
  });
  throw NotFiniteError(fmt::format(
      "step {}: the {} not finite{}{}. {}; try a lower train.learning_rate or a longer train.warmup", step,
      what, where.empty() ? "" : ", ", where, last));
}

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

CheckpointState Trainer::checkpoint_state() const {
  const ImageShape& image = corpus_.tasks.front().train.images.shape;
  nlohmann::json metadata{
      {"seed", recipe_.run.seed},
      {"random", {{"generator", "philox4x32-10"}, {"seed", recipe_.run.seed}, {"step", step_}}},
      {"tokenizer_hash", tokenizer_hash()},
      {"class_names", corpus_.class_names},
      {"ranks", grid_.world().size()},
      {"expert_parallel", grid_.expert_parallel()}};
  for (const TrainedTask& one : tasks_) {
    const DataPosition position = one.batches->position();
    metadata["data_position"][one.task->name()] = {{"epoch", position.epoch}, {"batch", position.batch}};
    // A private model may be published, and this would tell of its data.
    if (!privacy_) metadata["training_data"][one.task->name()] = one.data_mark();
  }
  if (privacy_)
    metadata["privacy"] = {{"unit", recipe_.privacy.unit},
                           {"noise_multiplier", privacy_->noise_multiplier()},
                           {"sampling_rate", privacy_->sampling_rate()},
                           {"steps", privacy_->released()},
                           {"name", privacy_->name()},
                           {"epsilon", privacy_->epsilon(privacy_->released())},
                           {"delta", recipe_.privacy.delta}};
  if (image.size() > 0) metadata["image_shape"] = {image.height, image.width, image.channels};
  // A private model may be published, so its checkpoint contains no measurements, which have no noise.
  if (!privacy_) add_measurements(metadata);
  return {step_, to_toml(recipe_), metadata.dump(), corpus_.tokenizer ? corpus_.tokenizer->bytes() : ""};
}

// Those of the last validation, or of the checkpoint from which training resumed.
void Trainer::add_measurements(nlohmann::json& metadata) const {
  if (last_validation_.empty() && !told_.empty()) metadata.update(nlohmann::json::parse(told_));
  for (const auto& [task, result] : last_validation_) {
    auto& metrics = metadata["metrics"][task];
    metrics["validation_loss"] = result.loss;
    if (result.accuracy) metrics["validation_accuracy"] = *result.accuracy;
    if (result.macro_f1) metrics["validation_macro_f1"] = *result.macro_f1;
    if (result.image_weight) metrics["image_weight"] = *result.image_weight;
  }
  for (std::size_t l = 0; l < layers_.size() && !last_validation_.empty(); ++l)
    metadata["routing"][layers_[l].first] = last_validation_.front().second.expert_classes[l];
}

void Trainer::save() {
  const double start = now();
  unrecorded_ = ledger_ ? ledger_->record(step_) : "";
  if (!unrecorded_.empty()) {
    if (grid_.world().rank() == 0) warn_unsaved(step_, unrecorded_);
    return;
  }
  writer_.save(entries_, checkpoint_state());
  const double stall = now() - start;
  sums_.save_seconds += stall;
  sums_.all_save_seconds += stall;
  ++sums_.saves;
}

// Returns why the last save() failed, or "".
std::string Trainer::wait_for_save() {
  if (!unrecorded_.empty()) return unrecorded_;
  const SaveOutcome& outcome = *writer_.wait();
  return outcome.saved ? "" : outcome.message;
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
                                  last ? kCalibrationBatches : kCalibrationBatches / 4);
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
  if (!result.interrupted) result.test = evaluate(&TrainedTask::test, "test");
  log_.finish();
  return result;
}

void Trainer::begin_round(const std::string& checkpoint, std::int64_t first_step, std::int64_t seen) {
  CheckpointReader(checkpoint, grid_.world()).load(model_entries());
  optimizer_.restart();
  for (const auto& [name, layer] : layers_) layer->balancer().restart();
  optimizer_start_ = first_step;
  // A round that is interrupted and repeated may release two updates. The site's ledger counts both.
  if (privacy_) privacy_->go_on_from(first_step);
  std::vector<std::int64_t> used(tasks_.size());  // micro-batches of each task in these steps
  for (step_ = 0; step_ < seen; ++step_)
    for (std::int64_t micro = 0; micro < recipe_.train.accumulate; ++micro) ++used[task_of(micro)];
  for (std::size_t t = 0; t < tasks_.size(); ++t)
    tasks_[t].batches->seek({used[t] / tasks_[t].batches_per_epoch, used[t] % tasks_[t].batches_per_epoch});
  step_ = first_step;
  log_.forget_metrics_from(step_ + 1);
}

bool Trainer::take_steps(std::int64_t steps, const SiteRules& rules) {
  require(step_ + steps <= total_steps_, "steps {} to {} are more than the {} there are{}", step_ + 1,
          step_ + steps, total_steps_, privacy_ ? ", or than what the budget of privacy has room for" : "");
  served_.clear();
  for (const auto& [name, layer] : layers_)
    served_.emplace_back(name, std::vector<double>(static_cast<std::size_t>(recipe_.moe.experts)));
  site_terms_.begin(rules, steps);
  sums_.window_start = now();
  for (; steps > 0 && !sums_.stop; --steps) {
    step();
    report(sums_.stop || steps == 1);
  }
  return !sums_.stop;
}

bool Trainer::subtract_clipped_sum() {
  require(privacy_ != nullptr, "gradients are clipped only with a privacy.unit");
  std::ranges::fill(sums_.message, 0.0);
  parameters_.zero_gradients();
  sum_clipped();
  for (const auto& segment : parameters_.segments()) {
    kernels::scale(segment.gradients, -1, segment.gradients);
    kernels::scale(segment.gradients, 1, segment.values, Write::accumulate);
  }
  double stop = environment_.is_interrupted() ? 1.0 : 0.0;
  grid_.world().all_reduce(Tensor::borrow(&stop, {1}, DType::f64));
  return stop == 0;
}

std::vector<TensorEntry> Trainer::clipped_changes() {
  std::vector<Tensor> changes;
  for (const auto& segment : parameters_.segments()) changes.push_back(segment.gradients);
  return parameter_entries("model", parameters_, changes);
}

std::vector<std::pair<std::string, Evaluation>> Trainer::validate() {
  return evaluate(&TrainedTask::validation, "validation", kCalibrationBatches / 4);
}

std::vector<TensorEntry> Trainer::model_entries() { return conclave::model_entries(parameters_, model_); }

std::int64_t Trainer::training_examples() const { return tasks_.front().splits->train.size(); }

std::int64_t Trainer::private_units() const { return privacy_ ? privacy_->units() : 0; }

std::optional<PrivacyEvent> Trainer::privacy_event(std::int64_t steps) const {
  if (!privacy_ || !(privacy_->noise_multiplier() > 0)) return std::nullopt;
  return privacy_->event(steps);
}

std::string Trainer::save_now() {
  save();
  const std::string problem = wait_for_save();
  require(problem.empty(), "step {} was not saved: {}", step_, problem);
  return writer_.wait()->path;
}

}  // namespace conclave
