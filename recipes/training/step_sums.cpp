#include "recipes/training/step_sums.h"

#include <algorithm>
#include <numeric>

#include "core/clock.h"

namespace conclave {

std::string metric_prefix(std::string_view task, std::size_t tasks) {
  return tasks == 1 ? "" : std::string(task) + "/";
}

void StepSums::lay_out(std::span<const std::pair<std::string, MoeLayer*>> moe_layers,
                       std::span<const std::string_view> names_of_tasks, Index experts) {
  const auto each = static_cast<std::size_t>(experts);
  const std::size_t first_layer = first_task + names_of_tasks.size() * task_items;
  std::size_t items = first_layer;
  for (const auto& [name, layer] : moe_layers) items += (layer->balancer().wants_gradients() ? 4 : 1) * each;
  message.resize(items);
  window.resize(first_layer);
  auto free = std::span(message).subspan(first_layer);
  const auto take = [&] {
    const auto taken = free.first(each);
    free = free.subspan(each);
    return taken;
  };
  for (const auto& [name, layer] : moe_layers) {
    auto& sums = layer_sums.emplace_back();
    sums.load = take();
    sums.rows.resize(each);
    layer_names.push_back(
        {name + "/load", name + "/utilization", name + "/milliseconds", name + "/balancing_milliseconds"});
    if (!layer->balancer().wants_gradients()) continue;
    sums.gradient_squares = take();
    sums.loss = take();
    sums.weight = take();
    sums.gradient_norm.resize(each);
    sums.mean_loss.resize(each);
  }
  load_share.assign(moe_layers.size(), std::vector<double>(each));
  load_sum.assign(moe_layers.size(), std::vector<double>(each));
  layers.resize(moe_layers.size());
  balancing_seconds.resize(moe_layers.size());
  for (const std::string_view name : names_of_tasks) {
    tasks.emplace_back().name = name;
    const std::string prefix = metric_prefix(name, names_of_tasks.size());
    task_names.push_back({prefix + "train/loss", prefix + "train/accuracy"});
  }
  metrics.reserve(16 + 4 * layers.size() + 2 * tasks.size());
}

StepReport StepSums::report(StepReport report) {
  const auto steps = static_cast<double>(window_steps);
  for (std::size_t l = 0; l < layers.size(); ++l) {
    const double total = std::accumulate(load_sum[l].begin(), load_sum[l].end(), 0.0);
    const double mean = total / static_cast<double>(load_sum[l].size());
    for (std::size_t e = 0; e < load_sum[l].size(); ++e)
      load_share[l][e] = mean > 0 ? load_sum[l][e] / mean : 0;
    layers[l].load = load_share[l];
    layers[l].utilization /= steps;
    layers[l].milliseconds /= steps;
  }
  for (std::size_t t = 0; t < tasks.size(); ++t) {
    const auto sums = std::span<const double>(window).subspan(first_task + t * task_items, task_items);
    tasks[t].steps_taken = sums[guesses] > 0;
    tasks[t].loss = sums[loss] / std::max(sums[guesses], 1.0);
    tasks[t].accuracy = sums[judged] > 0 ? std::optional(sums[right] / sums[judged]) : std::nullopt;
  }
  const double seconds = now() - window_start;
  report.learning_rate = learning_rate;
  report.tokens_per_second = window[tokens] / seconds;
  report.seconds_per_step = seconds / steps;
  report.tasks = tasks;
  report.layers = layers;
  report.timed = timed;
  return report;
}

std::span<const Metric> StepSums::as_metrics(const StepReport& report, std::optional<double> epsilon) {
  metrics.clear();
  metrics.emplace_back("epoch", report.epoch);
  for (std::size_t t = 0; t < tasks.size(); ++t) {
    if (!tasks[t].steps_taken) continue;
    metrics.emplace_back(task_names[t].loss, tasks[t].loss);
    if (tasks[t].accuracy) metrics.emplace_back(task_names[t].accuracy, *tasks[t].accuracy);
  }
  metrics.emplace_back("train/learning_rate", report.learning_rate);
  metrics.emplace_back("train/gradient_norm", gradient_norm);
  if (epsilon) metrics.emplace_back("privacy/epsilon", *epsilon);
  metrics.emplace_back("train/tokens_per_second", report.tokens_per_second);
  metrics.emplace_back("train/seconds_per_step", report.seconds_per_step);
  metrics.emplace_back("train/checkpoint_stall_seconds", save_seconds);
  metrics.emplace_back("moe/utilization", report.utilization());
  for (std::size_t l = 0; l < layers.size(); ++l) {
    metrics.emplace_back(layer_names[l].load, layers[l].load);
    metrics.emplace_back(layer_names[l].utilization, layers[l].utilization);
    if (!timed) continue;
    metrics.emplace_back(layer_names[l].milliseconds, layers[l].milliseconds);
    metrics.emplace_back(layer_names[l].balancing,
                         1e3 * balancing_seconds[l] / static_cast<double>(window_steps));
  }
  return metrics;
}

void StepSums::begin_window() {
  for (auto& load : load_sum) std::ranges::fill(load, 0.0);
  for (auto& layer : layers) layer.milliseconds = layer.utilization = 0;
  std::ranges::fill(balancing_seconds, 0.0);
  std::ranges::fill(window, 0.0);
  save_seconds = 0;
  window_steps = 0;
  window_start = now();
}

}  // namespace conclave
