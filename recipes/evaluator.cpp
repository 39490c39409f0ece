#include "recipes/evaluator.h"

#include <algorithm>

#include "core/clock.h"
#include "core/kernels/permutation.h"
#include "core/kernels/reduction.h"
#include "parallel/moe/balancer.h"
#include "recipes/expert_table.h"

namespace conclave {

double Evaluation::mean_experts() const {
  double tokens_routed = 0, experts = 0;
  for (std::size_t k = 0; k < experts_per_token.size(); ++k) {
    tokens_routed += static_cast<double>(experts_per_token[k]);
    experts += static_cast<double>(k) * static_cast<double>(experts_per_token[k]);
  }
  return tokens_routed > 0 ? experts / tokens_routed : 0;
}

namespace {

// Of each layer and expert, where some of what it received are rows of images, and others are not.
std::vector<std::vector<double>> image_shares(std::span<const Index> image_load,
                                              const std::vector<std::vector<Index>>& expert_classes,
                                              std::size_t classes) {
  std::vector<std::vector<double>> shares;
  Index images = 0, all = 0;
  for (const auto& counts : expert_classes) {
    const ExpertTable table(counts, classes);
    auto& layer = shares.emplace_back();
    for (const Index total : table.expert_totals()) {
      images += image_load.front();
      all += total;
      layer.push_back(static_cast<double>(image_load.front()) /
                      static_cast<double>(std::max<Index>(total, 1)));
      image_load = image_load.subspan(1);
    }
  }
  return images > 0 && images < all ? shares : std::vector<std::vector<double>>();
}

}  // namespace

Evaluator::Evaluator(Model& model, Task& task, const TokenizedSplit& split, const Recipe& recipe,
                     Arena& activations, const ProcessGrid& grid, std::optional<std::uint64_t> shuffle)
    : model_(model),
      task_(task),
      split_(split),
      classes_(model.sizes().classes),
      glue_task_(recipe.data.source == "glue" && task.name() == "classify" ? recipe.data.task : ""),
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

// Of what the device has computed, in host memory.
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

void Evaluator::calibrate(Index batches, const std::function<void()>& after_each) {
  const auto layers = model_.moe_layers();
  std::vector<Index> load;
  DataPosition position;
  for (Index number = 0; number < std::min<Index>(batches, batcher_.batches_per_epoch()); ++number) {
    batcher_.fill(position, batch_);
    position = batch_.next;
    activations_.reset();
    Tape tape(activations_, false);
    forward(tape, batch_, true);
    if (after_each) after_each();
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
  const std::size_t experts = layers.empty() ? 0 : layers.front().second->statistics().load.size();
  result.expert_classes.assign(layers.size(), std::vector<Index>(experts * classes));
  result.experts_per_token.resize(
      static_cast<std::size_t>(layers.empty() ? 1 : layers.front().second->most_experts() + 1));
  if (empty_) return result;
  const Clock::time_point start = Clock::now();
  Communicator& world = grid_.world();
  std::vector<Index> batch_load(layers.size() * experts);
  // [tokens of others, of the domain, then of each layer and expert those that it received]
  std::vector<Index> domain(2 + 2 * layers.size() * experts);
  std::vector<Index> image_load(layers.size() * experts);  // rows of images that each received
  double utilization_sum = 0, batches = 0;

  for (const auto& [name, layer] : layers)
    if (layer->route_cache()) layer->route_cache()->reset_statistics();

  // of this rank, then of all, with per class its true positives, false positives and false negatives
  enum Sum : std::size_t { loss, guesses, right, judged, sequences, tokens, first_class };
  std::vector<double> sums(first_class + 3 * classes);
  bool of_classes = false;
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
      of_classes = true;
      const float* scores = logits.data<float>();
      for (std::size_t i = 0; i < batch_.labels.size(); ++i, scores += classes) {
        const auto label = static_cast<std::size_t>(batch_.labels[i]);
        const auto predicted = static_cast<std::size_t>(std::max_element(scores, scores + classes) - scores);
        if (!predictions.empty())
          predictions[static_cast<std::size_t>(batch_.examples[i])] =
              glue_prediction(glue_task_, {scores, classes});
        if (predicted == label) {
          ++sums[first_class + 3 * label];
        } else {
          ++sums[first_class + 3 * predicted + 1];
          ++sums[first_class + 3 * label + 2];
        }
      }
    }
    std::ranges::fill(batch_load, 0);
    for (std::size_t l = 0; l < layers.size(); ++l) {
      const Tensor& chosen = chosen_experts[l];
      const auto routed = chosen.span<std::int32_t>();
      const auto width = static_cast<std::size_t>(chosen.size(1)),
                 k = static_cast<std::size_t>(layers[l].second->most_experts());
      for (std::size_t s = 0; s < batch_.labels.size(); ++s) {
        const auto first = static_cast<std::size_t>(batch_.offsets[s]) * width;
        const auto last = static_cast<std::size_t>(batch_.offsets[s + 1]) * width;
        const auto text = static_cast<std::size_t>(batch_.text_offsets[s + 1] - batch_.text_offsets[s]);
        const auto in_domain = static_cast<std::size_t>(batch_.in_domain[s]);
        if (l == 0) domain[in_domain] += static_cast<Index>((last - first) / k);
        for (std::size_t i = first; i < last; i += k) {
          const auto unused = std::ranges::count(routed.subspan(i, k), -1);
          ++result.experts_per_token[k - static_cast<std::size_t>(unused)];
        }
        for (std::size_t i = first; i < last; ++i) {
          if (routed[i] < 0) continue;
          const auto expert = static_cast<std::size_t>(routed[i]);
          ++result.expert_classes[l][expert * classes + static_cast<std::size_t>(batch_.labels[s])];
          ++batch_load[l * experts + expert];
          ++domain[2 + 2 * (l * experts + expert) + in_domain];
          if (i < last - text * width) ++image_load[l * experts + expert];
        }
      }
    }
    if (!layers.empty())
      world.all_reduce(
          Tensor::borrow(batch_load.data(), {static_cast<Index>(batch_load.size())}, DType::i64));
    for (std::size_t l = 0; l < layers.size(); ++l)
      utilization_sum += utilization(std::span(batch_load).subspan(l * experts, experts));
    ++batches;
    if (visit) visit(batch_, chosen_experts);
  }

  double looked_up[2] = {};  // found, and in all
  for (const auto& [name, layer] : layers) {
    if (!layer->route_cache()) continue;
    const RouteCacheStatistics statistics = layer->route_cache()->statistics();
    looked_up[0] += static_cast<double>(statistics.hits);
    looked_up[1] += static_cast<double>(statistics.hits + statistics.misses);
  }
  world.all_reduce(Tensor::borrow(looked_up, {2}, DType::f64));
  if (looked_up[1] > 0) result.route_hit_rate = looked_up[0] / looked_up[1];
  world.all_reduce(Tensor::borrow(sums.data(), {static_cast<Index>(sums.size())}, DType::f64));
  for (auto& table : result.expert_classes)
    world.all_reduce(Tensor::borrow(table.data(), {static_cast<Index>(table.size())}, DType::i64));
  world.all_reduce(Tensor::borrow(result.experts_per_token.data(),
                                  {static_cast<Index>(result.experts_per_token.size())}, DType::i64));
  world.all_reduce(Tensor::borrow(domain.data(), {static_cast<Index>(domain.size())}, DType::i64));
  result.image_weight = task_.image_weight();
  for (std::size_t l = 0; l < layers.size() && domain[1] > 0; ++l) {
    DomainRouting& routing = result.domain.emplace_back(DomainRouting{domain[1], domain[0], {}, {}});
    for (std::size_t e = 0; e < experts; ++e) {
      routing.other.push_back(domain[2 + 2 * (l * experts + e)]);
      routing.domain.push_back(domain[2 + 2 * (l * experts + e) + 1]);
    }
  }
  if (!layers.empty()) {
    world.all_reduce(Tensor::borrow(image_load.data(), {static_cast<Index>(image_load.size())}, DType::i64));
    result.image_share = image_shares(image_load, result.expert_classes, classes);
    const auto count = static_cast<double>(layers.size());
    result.utilization = 0;
    result.batch_utilization = utilization_sum / (batches * count);
    for (const auto& table : result.expert_classes)
      result.utilization += utilization(ExpertTable(table, classes).expert_totals()) / count;
  }
  if (of_classes) {
    double f1_sum = 0;
    for (std::size_t c = first_class; c < sums.size(); c += 3)
      if (sums[c] > 0) f1_sum += 2 * sums[c] / (2 * sums[c] + sums[c + 1] + sums[c + 2]);
    result.macro_f1 = f1_sum / static_cast<double>(classes);
  }
  if (!predictions.empty()) {  // each rank has those of its own examples, and 0 for the others
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
