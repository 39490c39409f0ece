// Where a run begins and what it leaves: another model or a checkpoint to go on from, its folder, and the
// checkpoints that it saves.
#include <fmt/ranges.h>
#include <nlohmann/json.hpp>

#include "core/clock.h"
#include "recipes/models/integer_state.h"
#include "recipes/models/loaded_model.h"
#include "recipes/models/model_state.h"
#include "recipes/training/trained_task.h"

namespace conclave {

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
  privacy_before_ = privacy_before(nlohmann::json::parse(reader.state().metadata)).dump();
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
  // Keys that differ explain what the checkpoint lacks, so they are compared first.
  const Recipe there = parse_recipe(reader.state().recipe, environment_.resume + ":/state/recipe");
  const std::string changed = fmt::format("{}", fmt::join(changed_keys(there, recipe_), ", "));
  try {
    reader.expect(entries_);
  } catch (const Error& error) {
    if (changed.empty()) throw;
    fail(
        "{}; the recipe is not that checkpoint's: {}; resume with the recipe as it was, or begin a run with "
        "its weights by train.start_from",
        error.what(), changed);
  }
  reader.load(entries_);
  // A run with privacy goes on with its mark. One without does not make what was spent undone.
  privacy_before_ =
      (privacy_ ? metadata.value("privacy_before", nlohmann::json::array()) : privacy_before(metadata))
          .dump();
  step_ = reader.state().step;
  require(metadata.at("tokenizer_hash") == tokenizer_hash(), "{}: its tokenizer does not match its metadata",
          environment_.resume);
  if (privacy_) {
    const auto spent = find_mark(metadata, MarkKind::training);
    require(spent.has_value(),
            "{}: it was trained without privacy, which cannot be added afterwards; start a new run",
            environment_.resume);
    require(spent->count && spent->noise_multiplier && spent->sampling_rate && !spent->name.empty(),
            "{}: it does not say how many steps with which noise have spent privacy, as a site's model of a "
            "federation, whose ledger has that; begin a run with its weights by train.start_from",
            environment_.resume);
    require(spent->unit == recipe_.privacy.unit,
            "{}: its unit of privacy was a {}, and that of later steps would be a {}; resume with the recipe "
            "and the data as they were",
            environment_.resume, spent->unit, recipe_.privacy.unit);
    require(*spent->noise_multiplier == privacy_->noise_multiplier() &&
                *spent->sampling_rate == privacy_->sampling_rate(),
            "{}: its steps had noise of {} and a sampling rate of {}, and later steps would have {} and {}; "
            "resume with the recipe and the data as they were",
            environment_.resume, *spent->noise_multiplier, *spent->sampling_rate,
            privacy_->noise_multiplier(), privacy_->sampling_rate());
    privacy_->go_on_from(*spent->count, spent->name);
  }
  auto told = nlohmann::json::object();
  for (const char* what : {"metrics", "routing", "measured_at"})
    if (metadata.contains(what)) told[what] = metadata[what];
  told_ = told.dump();
  for (TrainedTask& one : tasks_) {
    const auto positions = metadata.value("data_position", nlohmann::json::object());
    const auto found = positions.find(one.task->name());
    require(
        found != positions.end(),
        "{}: its model was not trained to {}; resume with [tasks] as it was, or begin a run with its weights "
        "by train.start_from",
        environment_.resume, one.task->name());
    const auto& of_task = *found;
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
  // With privacy, examples are drawn by the system's generator.
  if (const auto seed = metadata.value("seed", recipe_.run.seed); seed != recipe_.run.seed && !privacy_)
    log_.say(fmt::format(
        "warning: run.seed = {} ({} there) gives this epoch another order: the rest of it is not what the "
        "checkpoint's run had left over",
        recipe_.run.seed, seed));
  if (!changed.empty()) log_.say(fmt::format("the recipe is not that checkpoint's: {}", changed));
  require(step_ <= total_steps_, "{}: it is at step {}, but {} gives {} steps in all; set that to more",
          environment_.resume, step_,
          recipe_.train.steps > 0 ? "train.steps"
          : privacy_              ? "train.epochs and privacy.epsilon"
                                  : "train.epochs",
          total_steps_);
  if (step_ == total_steps_) log_.say("no steps are left; what follows is measured on the model as it is");
}

// `known` is what a checkpoint says of its training data; those of private runs say nothing.
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
  if (privacy_mark_)
    set_mark(metadata, MarkKind::training, *privacy_mark_);
  else if (privacy_)
    set_mark(metadata, MarkKind::training,
             {.unit = recipe_.privacy.unit,
              .count = privacy_->released(),
              .epsilon = privacy_->epsilon(privacy_->released()),
              .delta = recipe_.privacy.delta,
              .noise_multiplier = privacy_->noise_multiplier(),
              .sampling_rate = privacy_->sampling_rate(),
              .name = privacy_->name()});
  if (privacy_before_ != "[]") metadata["privacy_before"] = nlohmann::json::parse(privacy_before_);
  if (image.size() > 0) metadata["image_shape"] = {image.height, image.width, image.channels};
  // A private model may be published, so its checkpoint contains no measurements, which have no noise.
  if (!privacy_) add_measurements(metadata);
  return {step_, to_toml(recipe_), metadata.dump(), corpus_.tokenizer ? corpus_.tokenizer->bytes() : ""};
}

// Those of the last validation, or of the checkpoint from which training resumed.
void Trainer::add_measurements(nlohmann::json& metadata) const {
  if (last_validation_.empty() && !told_.empty()) metadata.update(nlohmann::json::parse(told_));
  if (!last_validation_.empty()) metadata["measured_at"] = validated_at_;
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

std::string Trainer::save_now(const std::optional<PrivacyMark>& privacy, const std::string& begun_from) {
  privacy_mark_ = privacy;
  if (!begun_from.empty()) privacy_before_ = privacy_before(nlohmann::json::parse(begun_from)).dump();
  save();
  const std::string problem = wait_for_save();
  require(problem.empty(), "step {} was not saved: {}", step_, problem);
  return writer_.wait()->path;
}

}  // namespace conclave
