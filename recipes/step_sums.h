// What the ranks of a run add up in each step, and what gathers of that until it is reported.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "parallel/moe/moe_layer.h"
#include "recipes/metrics/metric.h"
#include "recipes/progress.h"

namespace conclave {

/// What the metrics of a task begin with: nothing where it is the only one.
std::string metric_prefix(std::string_view task, std::size_t tasks);

struct StepSums {
  StepSums() = default;
  StepSums(const StepSums&) = delete;  // spans are of its own message
  StepSums& operator=(const StepSums&) = delete;

  // The message: [expert gradient norm^2, interrupted, tokens, then of each task what TaskItem names,
  // then of each layer its experts' loads, and the other three where its balancer wants them]
  enum Item : std::size_t { expert_norm, interrupted, tokens, first_task };
  // Of a task's guesses.
  enum TaskItem : std::size_t { loss, guesses, right, judged, task_items };
  std::vector<double> message;
  std::span<double> task(std::size_t number) {
    return std::span(message).subspan(first_task + number * task_items, task_items);
  }
  struct Layer {
    std::span<double> load, gradient_squares, loss, weight;  // of `message`
    std::vector<Index> rows;                                 // global, what the balancer is given
    std::vector<double> gradient_norm, mean_loss;
  };
  std::vector<Layer> layer_sums;
  std::vector<std::vector<double>> load_share;  // by layer, for the report
  std::vector<std::vector<double>> load_sum;    // by layer, since the last report
  std::vector<MoeLayerReport> layers;
  std::vector<double> balancing_seconds;  // by layer, since the last report
  struct LayerNames {                     // of metrics, built once
    std::string load, utilization, milliseconds, balancing;
  };
  std::vector<LayerNames> layer_names;
  struct TaskNames {
    std::string loss, accuracy;
  };
  std::vector<TaskNames> task_names;
  std::vector<Metric> metrics;
  std::vector<double> window;  // the message's items before the layers', since the last report
  std::vector<TaskReport> tasks;
  std::int64_t window_steps = 0;
  double window_start = 0, gradient_norm = 0, learning_rate = 0, save_seconds = 0;
  std::int64_t saves = 0;  // of this run
  double all_save_seconds = 0;
  bool stop = false;

  /// Takes the memory for all of that; before, in a planning run, the message is empty. Names of tasks
  /// must outlive this.
  void lay_out(std::span<const std::pair<std::string, MoeLayer*>> moe_layers,
               std::span<const std::string_view> names_of_tasks, Index experts);
  /// `report` with the means of what gathered since the last begin_window().
  StepReport report(StepReport report);
  /// What the metrics file is to say of it; `epsilon`, where there is privacy, is what was spent of it.
  std::span<const Metric> as_metrics(const StepReport& report, std::optional<double> epsilon);
  void begin_window();
};

}  // namespace conclave
