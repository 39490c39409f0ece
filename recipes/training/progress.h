// A run's progress on standard error. On a terminal it is one line that is redrawn in place; in a file or a
// pipe it is one plain line per report, with every layer's expert loads.
#pragma once

#include <fmt/format.h>

#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

namespace conclave {

/// One MoE layer during the reported steps.
struct MoeLayerReport {
  std::span<const double> load;  ///< [experts] share of the routed tokens times experts; mean 1.0
  double utilization = 0.0;      ///< mean load / max load of a step, mean over steps
  double milliseconds = 0.0;     ///< per step in this layer's MoE, on the reporting rank
};

/// One of a model's tasks during the reported steps.
struct TaskReport {
  std::string_view name;
  bool steps_taken = false;  ///< false: loss and accuracy have no meaning
  double loss = 0.0;
  std::optional<double> accuracy;
};

/// The steps since the last report; means where several were taken.
struct StepReport {
  std::int64_t step = 0;         ///< steps done
  std::int64_t total_steps = 0;  ///< of the whole run; 0 if it has no end
  double epoch = 0.0;            ///< passes over the training split done
  double learning_rate = 0.0;
  double tokens_per_second = 0.0;  ///< over all ranks
  double seconds_per_step = 0.0;   ///< for the estimate of the time left
  std::span<const TaskReport> tasks;
  std::span<const MoeLayerReport> layers;
  /// Whether the layers' milliseconds have a meaning; on a device, where the host only queues work, they do
  /// not.
  bool timed = true;

  double utilization() const;       ///< mean over the layers; 1 without any
  double moe_milliseconds() const;  ///< sum over the layers
};

/// Appends "step 120/680  epoch 1.80  loss 1.234  acc 0.712  lr 9.8e-04  tokens/s 21340  utilization 0.93 moe
/// 8.1 ms  eta 3m12s  [layer 0: utilization 0.93 moe 4.1 ms load 0.80 1.10 ...]  [layer 1: ...]"; with
/// several tasks, "classify loss 1.234  acc 0.712  caption loss 2.345 ..."; without "moe 8.1 ms" if layers
/// are not timed. No newline.
void format_line(fmt::memory_buffer& out, const StepReport& report);
/// Appends a bar and the most important figures that fit into `columns`, ASCII only; no newline.
void format_bar(fmt::memory_buffer& out, const StepReport& report, int columns, bool colour);

/// Width of the terminal behind `descriptor`; 80 where there is none.
int terminal_columns(int descriptor);

struct ProgressOptions {
  int descriptor = 2;
  bool bar = false;     ///< draw over one line; else a line per report
  bool colour = false;  ///< for the bar
  int columns = 0;      ///< of the terminal; 0: ask the terminal at every report
};

/// A bar where `descriptor` is a terminal that can move its cursor, in colour unless told otherwise.
/// `no_color` and `term` are the environment's NO_COLOR and TERM, or null.
ProgressOptions progress_options(int descriptor, const char* no_color, const char* term);

class Progress {
 public:
  explicit Progress(const ProgressOptions& options) : options_(options) {
    for (fmt::memory_buffer* buffer : {&out_, &bar_}) buffer->reserve(16 * 1024);  // some 2000 experts' loads
  }
  ~Progress() { finish(); }
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  /// Redraws the bar, or writes a line. Allocates only where the text exceeds the reserved buffers. Write
  /// errors are ignored.
  void show(const StepReport& report);
  /// Writes `text`, which has no newline, on a line of its own; a bar is drawn again below it.
  void message(std::string_view text);
  /// Leaves the bar as it is and goes to the next line; a later report starts a new bar.
  void finish();

 private:
  void write();

  ProgressOptions options_;
  fmt::memory_buffer out_, bar_;  // bar_: what is drawn now
};

}  // namespace conclave
