// Writes a run's metrics to two files: DIRECTORY/metrics.jsonl, one JSON object per line for people and
// scripts, and an event file for TensorBoard. A failed write, e.g. on a full disk, loses lines but never
// stops the training: the writer warns once and keeps trying.
#pragma once

#include <fmt/format.h>

#include <cstdint>
#include <functional>
#include <limits>
#include <span>
#include <string>

#include "recipes/metrics/append_file.h"
#include "recipes/metrics/event_file.h"
#include "recipes/metrics/metric.h"

namespace conclave {

struct MetricsOptions {
  std::string directory;                         ///< created if missing
  std::string host = "localhost";                ///< last part of the event file's name
  std::function<double()> clock;                 ///< seconds since 1970
  std::function<void(const std::string&)> warn;  ///< called once if metrics cannot be written
};

/// For use by one rank. Not thread-safe.
class MetricsWriter {
 public:
  /// Opens both files for appending and cuts off a last line that a crash left incomplete. Throws Error if
  /// the folder or a file cannot be created.
  explicit MetricsWriter(MetricsOptions options);

  /// Appends {"step": step, "time": now, NAME: value, NAME: [values], ...}; NaN and infinity become null in
  /// JSON. Metrics must not be called "step" or "time". Allocates nothing after a line with as many metrics
  /// was written.
  void write(std::int64_t step, std::span<const Metric> metrics);

  /// Drops `step` and all later steps: their lines are cut off metrics.jsonl, and TensorBoard is told to
  /// ignore them in earlier event files. A resumed run calls this with the first step it will write, a new
  /// run with 0.
  void truncate_from(std::int64_t step);

  /// Cuts the lines of `step` with metrics of `split` (".../SPLIT/...") off the end of metrics.jsonl: a run
  /// that is evaluated once more writes them anew. TensorBoard shows the later of two values of a step.
  void drop_evaluation(std::int64_t step, const std::string& split);

  std::string jsonl_path() const { return lines_.path(); }

 private:
  void warn_once(const std::string& path, int reason);

  MetricsOptions options_;
  AppendFile lines_;
  EventFile events_;
  fmt::memory_buffer line_;
  bool warned_ = false;
};

/// Begins the names of files with pictures of single steps (recipes/training/step_trace.h).
inline constexpr std::string_view kTracePrefix = "trace-";

bool has_metrics(const std::string& directory);
/// Moves the files of an earlier run's writer, and its traces, from one folder to another; throws Error.
void move_metrics(const std::string& from, const std::string& to);
/// Copies metrics.jsonl, if there is one. A run that continues from one of its steps then drops the later
/// lines with truncate_from. Throws Error.
void copy_metrics(const std::string& from, const std::string& to);

/// The size to which metrics.jsonl must be cut to keep only complete lines of steps before `first_dropped`:
/// the start of the first line with that step or a later one, else the end of the last complete line. Lines
/// must be in order of steps.
std::int64_t kept_bytes(const std::string& jsonl_path,
                        std::int64_t first_dropped = std::numeric_limits<std::int64_t>::max());

/// The system's clock, for MetricsOptions::clock.
double seconds_since_1970();

}  // namespace conclave
