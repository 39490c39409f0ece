// What a site of a federation does with a Trainer, round by round.
#include <algorithm>

#include "core/clock.h"
#include "core/kernels/activation.h"
#include "core/kernels/reduction.h"
#include "recipes/models/model_state.h"
#include "recipes/training/trained_task.h"

namespace conclave {

void Trainer::begin_round(const std::string& checkpoint, std::int64_t first_step, std::int64_t seen) {
  CheckpointReader(checkpoint, grid_.world()).load(model_entries());
  optimizer_.restart();
  for (const auto& [name, layer] : layers_) layer->balancer().restart();
  optimizer_start_ = first_step;
  // A round that is interrupted and repeated may release two updates. The site's ledger counts both.
  if (privacy_) privacy_->go_on_from(first_step);
  std::vector<std::int64_t> used(tasks_.size());  // micro-batches of each task in the steps seen
  missed_steps_ = 0;
  for (step_ = 0; step_ < seen; ++step_)
    for (std::int64_t micro = 0; micro < recipe_.train.accumulate; ++micro) ++used[task_of(micro)];
  for (std::size_t t = 0; t < tasks_.size(); ++t)
    tasks_[t].batches->seek({used[t] / tasks_[t].batches_per_epoch, used[t] % tasks_[t].batches_per_epoch});
  step_ = first_step;
  missed_steps_ = first_step - seen;
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
  return evaluate(&TrainedTask::validation, "validation", kFewCalibrationBatches);
}

std::vector<TensorEntry> Trainer::model_entries() { return conclave::model_entries(parameters_, model_); }

std::int64_t Trainer::training_examples() const { return tasks_.front().splits->train.size(); }

std::int64_t Trainer::private_units() const { return privacy_ ? privacy_->units() : 0; }

std::optional<PrivacyEvent> Trainer::privacy_event(std::int64_t steps) const {
  if (!privacy_ || !(privacy_->noise_multiplier() > 0)) return std::nullopt;
  return privacy_->event(steps);
}

}  // namespace conclave
