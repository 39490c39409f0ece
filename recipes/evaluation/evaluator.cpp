#include "recipes/evaluation/evaluator.h"

#include <algorithm>
#include <array>
#include <optional>

#include "core/clock.h"
#include "core/kernels/permutation.h"
#include "core/kernels/reduction.h"
#include "parallel/moe/balancer.h"
#include "recipes/evaluation/routing_counts.h"
#include "recipes/measures/classification.h"

namespace conclave {

double Evaluation::mean_experts() const {
  double tokens_routed = 0, experts = 0;
  for (std::size_t k = 0; k < experts_per_token.size(); ++k) {
    tokens_routed += static_cast<double>(experts_per_token[k]);
    experts += static_cast<double>(k) * static_cast<double>(experts_per_token[k]);
  }
  return tokens_routed > 0 ? experts / tokens_routed : 0;
}

Evaluator::Evaluator(Model& model, Task& task, const TokenizedSplit& split, const Recipe& recipe,
                     Arena& activations, const ProcessGrid& grid, std::optional<std::uint64_t> shuffle)
    : model_(model),
      task_(task),
      split_(split),
      classes_(model.sizes().classes),
      glue_task_(data_source(recipe.data.source).is_glue && traits_of(task.kind()).classes ? recipe.data.task
                                                                                           : ""),
      activations_(activations),
      grid_(grid),
      batcher_(split, {.tokens = recipe.train.batch_tokens,
                       .seed = shuffle.value_or(0),
                       .shuffle = shuffle.has_value(),
                       .rank = grid.world().rank(),
                       .ranks = grid.world().size(),
                       .image_tokens = task.image_tokens()}),
      empty_(split.size() == 0) {}

TaskOutput Evaluator::forward(Tape& tape, const Batch& batch, bool calibrating) {
  ForwardContext context{.training = false,
                         .stream = {},
                         .first_token = batch.first_token,
                         .first_sequence = batch.first_sequence,
                         .calibrating = calibrating,
                         .global_tokens = batch.global_tokens,
                         .global_sequences = batch.global_sequences,
                         .global_images = batch.global_images};
  return task_(tape, context, model_input(batch));
}

// Copies of what the device has computed, in host memory.
Evaluator::Results Evaluator::copies_of(Tape& tape, const TaskOutput& output, const Layers& layers) {
  const auto copy = [&](const Tensor& tensor) { return tensor.defined() ? tape.on_host(tensor) : Tensor(); };
  Results results{copy(output.losses), copy(output.correct), copy(output.logits), {}};
  for (const auto& [name, layer] : layers) results.chosen_experts.push_back(layer->chosen_experts(tape));
  return results;
}

void Evaluator::plan() {
  if (empty_) return;
  for (const auto most : batcher_.extremes()) {
    batcher_.fill_largest(batch_, most);
    activations_.reset();
    Tape tape(activations_, false);
    copies_of(tape, forward(tape, batch_), model_.moe_layers());
  }
}

void Evaluator::forward(Tape& tape, Index batch, bool calibrating) {
  batcher_.fill({0, batch}, batch_);
  forward(tape, batch_, calibrating);
  synchronize(grid_.device());  // the next batch's tables go where it may still copy this one's from
}

bool Evaluator::observe(Index batch) {
  if (batch >= batcher_.batches_per_epoch()) return false;
  activations_.reset();
  Tape tape(activations_, false);
  forward(tape, batch, false);
  return true;
}

void Evaluator::calibrate(Index batches) {
  const auto layers = model_.moe_layers();
  std::vector<Index> load;
  for (Index number = 0; number < std::min<Index>(batches, batcher_.batches_per_epoch()); ++number) {
    activations_.reset();
    Tape tape(activations_, false);
    forward(tape, number, true);
    for (const auto& [name, layer] : layers) {
      if (!layer->balancer().calibrates()) continue;
      load.resize(layer->statistics().load.size());
      kernels::count_experts(layer->chosen_experts(tape), load);
      grid_.world().all_reduce(Tensor::borrow(load.data(), {static_cast<Index>(load.size())}, DType::i64));
      layer->balancer().calibrate(load, number);
    }
  }
}

Evaluation Evaluator::run(const BatchVisitor& visit) {
  Evaluation result;
  const auto layers = model_.moe_layers();
  const auto classes = static_cast<std::size_t>(classes_);
  const bool routes = !layers.empty();
  RoutingCounts routing(
      layers.size(), routes ? layers.front().second->statistics().load.size() : 0, classes,
      routes ? static_cast<std::size_t>(layers.front().second->max_experts_per_token()) : 0);
  const auto take_tables = [&] {
    result.expert_classes = routing.expert_classes();
    result.experts_per_token = routing.experts_per_token();
  };
  take_tables();
  if (empty_) return result;
  const Clock::time_point start = Clock::now();
  Communicator& world = grid_.world();

  for (const auto& [name, layer] : layers)
    if (layer->route_cache()) layer->route_cache()->reset_statistics();

  // First of this rank, then of all ranks. The last two are for the routing caches.
  enum Sum : std::size_t { loss, guesses, right, judged, sequences, tokens, found, looked_up, items };
  std::array<double, items> sums{};
  std::optional<ClassCounts> guessed;  // if the task predicts classes
  std::vector<double> predictions(glue_task_.empty() ? 0 : static_cast<std::size_t>(split_.size()));
  for (DataPosition position; position.epoch == 0; position = batch_.next) {
    batcher_.fill(position, batch_);
    activations_.reset();
    Tape tape(activations_, false);
    const auto [losses, correct, logits, chosen_experts] = copies_of(tape, forward(tape, batch_), layers);
    sums[loss] += kernels::sum(losses);
    sums[guesses] += static_cast<double>(losses.numel());
    sums[sequences] += static_cast<double>(batch_.local_sequences());
    sums[tokens] += static_cast<double>(batch_.local_tokens());
    if (correct.defined()) {
      for (const std::uint8_t right_one : correct.span<std::uint8_t>()) sums[right] += right_one;
      sums[judged] += static_cast<double>(correct.numel());
    }
    if (logits.defined()) {
      if (!guessed) guessed.emplace(classes);
      const float* scores = logits.data<float>();
      for (std::size_t i = 0; i < batch_.labels.size(); ++i, scores += classes) {
        if (!predictions.empty())
          predictions[static_cast<std::size_t>(batch_.examples[i])] =
              glue_prediction(glue_task_, {scores, classes});
        guessed->add(static_cast<std::size_t>(batch_.labels[i]), guess_of({scores, classes}));
      }
    }
    routing.add(batch_, chosen_experts, world);
    if (visit) visit(batch_, chosen_experts);
  }

  for (const auto& [name, layer] : layers) {
    if (!layer->route_cache()) continue;
    const RouteCacheStatistics statistics = layer->route_cache()->statistics();
    sums[found] += static_cast<double>(statistics.hits);
    sums[looked_up] += static_cast<double>(statistics.hits + statistics.misses);
  }
  world.all_reduce(Tensor::borrow(sums.data(), {items}, DType::f64));
  if (sums[looked_up] > 0) result.route_hit_rate = sums[found] / sums[looked_up];
  routing.reduce(world);
  take_tables();
  result.domain = routing.domain();
  result.image_share = routing.image_share();
  result.utilization = routing.utilization();
  result.batch_utilization = routing.batch_utilization();
  result.image_weight = task_.image_weight();
  if (guessed) {
    guessed->reduce(world);
    result.macro_f1 = guessed->macro_f1();
    result.classes = guessed->by_class();
  }
  if (!predictions.empty()) {  // each rank has those of its own examples, and 0 elsewhere
    world.all_reduce(
        Tensor::borrow(predictions.data(), {static_cast<Index>(predictions.size())}, DType::f64));
    const std::vector<double> labels(split_.labels.begin(), split_.labels.end());
    result.measures = glue_measures(glue_task_, predictions, split_.scores.empty() ? labels : split_.scores);
  }
  result.sequences = static_cast<Index>(sums[sequences]);
  result.tokens = static_cast<Index>(sums[tokens]);
  result.loss = sums[loss] / sums[guesses];
  if (sums[judged] > 0) result.accuracy = sums[right] / sums[judged];
  result.seconds = seconds_since(start);
  return result;
}

}  // namespace conclave
