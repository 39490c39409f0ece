// The sums that a run's ranks add up in each step, and what accumulates of them until the next report.
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
#include "recipes/training/progress.h"

namespace conclave {

/// The prefix of a task's metrics; empty if it is the only task.
std::string metric_prefix(std::string_view task, std::size_t tasks);

struct StepSums {
  StepSums() = default;
  StepSums(const StepSums&) = delete;  // spans refer to its own message
  StepSums& operator=(const StepSums&) = delete;

  // The message: [expert gradient norm^2, interrupted, tokens, then for each task the items of TaskItem, then
  // for each layer its experts' loads and, if its balancer wants them, the other three spans of Layer]
  enum Item : std::size_t { expert_norm, interrupted, tokens, first_task };
  // Sums over a task's guesses.
  enum TaskItem : std::size_t { loss, guesses, right, judged, task_items };
  std::vector<double> message;
  std::span<double> task(std::size_t number) {
    return std::span(message).subspan(first_task + number * task_items, task_items);
  }
  struct Layer {
    std::span<double> load, gradient_squares, loss, weight;  // parts of `message`
    std::vector<Index> rows;                                 // global, for the balancer
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
  bool timed = true;  // whether layers' times have a meaning; see StepReport

  /// Allocates all members. Before that, in a planning run, the message is empty. The names of tasks must
  /// outlive this object.
  void lay_out(std::span<const std::pair<std::string, MoeLayer*>> moe_layers,
               std::span<const std::string_view> names_of_tasks, Index experts);
  /// `report`, completed with the means since the last begin_window().
  StepReport report(StepReport report);
  /// The metrics of a report for the metrics file; `epsilon` is what was spent of the privacy budget, if
  /// there is one.
  std::span<const Metric> as_metrics(const StepReport& report, std::optional<double> epsilon);
  void begin_window();
};

}  // namespace conclave
