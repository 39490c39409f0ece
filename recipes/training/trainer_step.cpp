// A training step: gradients of its micro-batches, their sum over the ranks, the update, and what balancers
// learn from it; and what happens where numbers are not finite.
#include <algorithm>
#include <cmath>

#include "core/kernels/activation.h"
#include "core/kernels/reduction.h"
#include "core/timeline.h"
#include "recipes/models/loaded_model.h"
#include "recipes/training/step_trace.h"
#include "recipes/training/trained_task.h"

namespace conclave {

// Switches rounding on from quantization.start_step on. Memory was planned with rounding.
void Trainer::choose_rounding() {
  if (Quantization* quantization = model_.quantization())
    quantization->rounds = step_ >= recipe_.quantization.start_step;
}

double Trainer::domain_strength() const {
  const double steps = recipe_.moe.domain_steps * static_cast<double>(total_steps_);
  return steps > 0 ? std::max(0.0, 1.0 - static_cast<double>(step_) / steps) : 0.0;
}

// Drawn for every micro-batch, and the same on all ranks. By the steps that were taken here: begin_round()
// counts each task's batches in these.
std::size_t Trainer::task_of(std::int64_t micro_batch) const {
  if (tasks_.size() == 1) return 0;
  RandomStream stream = stream_of(micro_batch);
  stream.step -= static_cast<std::uint32_t>(missed_steps_);
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
    tape.collect_example_gradients(apart.emplace(activations_, batch.global_sequences, batch.first_sequence));
  std::optional<Timeline::Scope> timed(std::in_place, "forward", kStepSpan);
  if (Timeline* timeline = Timeline::recording()) timeline->restart();
  const TaskOutput output = (*tasks_[number].task)(tape, context, input);
  const TaskOutput::Losses losses = output.losses_of_terms(tape, accumulate);
  if (last) reducer_.arm();
  timed.emplace("backward", kStepSpan);
  tape.backward(losses);
  timed.reset();
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

// Sums the clipped gradients of a step's examples, over all ranks.
//
// Dropout depends on an example's place in the batch, and so on which other examples were drawn; changes to
// an image depend on its index, and so on which others there are. Whoever knew these numbers could infer
// which, and one example more or less would change the gradients of all others. With privacy, they therefore
// come from a seed that is drawn for the step and never stored.
void Trainer::sum_clipped() {
  step_seed_ = secret_seed(grid_.world(), random_);
  std::int64_t micro = 0;
  privacy_->for_batches(*tasks_.front().drawn, step_seed_,
                        [&](const Batch& batch) { forward_backward(0, batch, micro++, false); });
  reducer_.arm();
  reducer_.finish();
}

// This step's gradients, summed over all ranks that hold a parameter; with privacy, clipped and noisy.
void Trainer::compute_gradients() {
  parameters_.zero_gradients();
  if (privacy_) {
    sum_clipped();
    privacy_->release(parameters_);
  } else {
    for (std::int64_t micro = 0; micro < recipe_.train.accumulate; ++micro) {
      const std::size_t task = task_of(micro);
      const Batch& batch = [&]() -> const Batch& {
        const Timeline::Scope timed("next batch", kStepSpan);
        return tasks_[task].batches->next();
      }();
      forward_backward(task, batch, micro, micro + 1 == recipe_.train.accumulate);
    }
    const Timeline::Scope timed("gradients of other ranks", kStepSpan);
    reducer_.finish();
  }
  for (std::size_t l = 0; l < layers_.size(); ++l) {
    MoeLayer& layer = *layers_[l].second;
    if (!layer.balancer().wants_gradients()) continue;
    layer.add_gradient_squares(sums_.layer_sums[l].gradient_squares);
    layer.weight_gradients();
  }
}

// Adds up what all ranks counted in this step. Returns the squared norm of the gradients.
double Trainer::sum_over_ranks() {
  const Timeline::Scope timed("sums over ranks", kStepSpan);
  StepSums& sums = sums_;
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
  return norm_squared + sums.message[StepSums::expert_norm];
}

// Tells the balancers how the step's tokens were divided, and notes the loads for the next report.
void Trainer::balance() {
  StepSums& sums = sums_;
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
}

void Trainer::step() {
  if (step_ + 1 != recipe_.run.trace_step) return take_step();
  grid_.world().barrier();  // all ranks' spans begin at one time
  Timeline timeline(grid_.device());
  {
    const Timeline::Scope timed("step", kStepSpan);
    take_step();
  }
  log_.say(write_trace(timeline, grid_.world(), recipe_.run.directory, step_));
}

void Trainer::take_step() {
  StepSums& sums = sums_;
  choose_rounding();
  std::ranges::fill(sums.message, 0.0);
  compute_gradients();
  site_terms_.add_to_gradients();
  const double norm_squared = sum_over_ranks();
  double loss = 0;
  for (std::size_t t = 0; t < tasks_.size(); ++t) loss += sums.task(t)[StepSums::loss];
  // In a private step, a loss may be infinite or NaN: that example is left out of the sum. Ending here would
  // reveal, without noise, that the example is among the data.
  check_finite(privacy_ ? 0.0 : loss, norm_squared);

  ++step_;
  sums.gradient_norm = std::sqrt(norm_squared);
  sums.learning_rate = schedule_.at(step_);
  {
    const Timeline::Scope timed("optimizer", kStepSpan);
    optimizer_.update(step_ - optimizer_start_, sums.learning_rate,
                      clip_scale(sums.gradient_norm, recipe_.train.clip_norm));
  }
  if (privacy_) check_weights();
  if (ranges_) ranges_->learn();
  {
    const Timeline::Scope timed("balancers", kStepSpan);
    balance();
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
    if (const auto before = newest_checkpoint(folder, Verify::everything, nullptr, step_ - 1))
      return "The last checkpoint before that is intact: " + *before;
    const std::string of_step = newest_checkpoint(folder, Verify::structure).value_or("");
    return of_step.empty()
               ? std::string("There is no checkpoint yet")
               : "There is no checkpoint from before that; the weights of this one lead to it: " + of_step;
  });
  throw NotFiniteError(fmt::format(
      "step {}: the {} not finite{}{}. {}; try a lower train.learning_rate or a longer train.warmup", step,
      what, where.empty() ? "" : ", ", where, last));
}

}  // namespace conclave
