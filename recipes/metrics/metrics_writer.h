// What a run measured, twice: DIRECTORY/metrics.jsonl, one JSON object per line for people and scripts, and
// an event file for TensorBoard. A disk that fills up costs lines, never the training: the writer warns once
// and goes on trying.
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
  std::string directory;                         ///< made where it is missing
  std::string host = "localhost";                ///< ends the event file's name
  std::function<double()> clock;                 ///< seconds since 1970
  std::function<void(const std::string&)> warn;  ///< told once where metrics cannot be written
};

/// One rank's business; not for two threads at once.
class MetricsWriter {
 public:
  /// Opens both files to append, and repairs a last line that a crash tore. Throws Error where the folder or
  /// a file cannot be made.
  explicit MetricsWriter(MetricsOptions options);

  /// Appends {"step": step, "time": now, NAME: value, NAME: [values], ...}; a NaN or infinity is null in
  /// JSON. "step" and "time" are not for metrics. Allocates nothing once as many metrics were written before.
  void write(std::int64_t step, std::span<const Metric> metrics);

  /// Forgets `step` and everything after it: lines are cut off metrics.jsonl, and TensorBoard is told to
  /// ignore them in earlier event files. Called by a resumed run with the first step it will write, by a new
  /// run with 0.
  void truncate_from(std::int64_t step);

  std::string jsonl_path() const { return lines_.path(); }
  std::string event_path() const { return events_.path(); }

 private:
  void warn_once(const std::string& path, int reason);

  MetricsOptions options_;
  AppendFile lines_;
  EventFile events_;
  fmt::memory_buffer line_;
  bool warned_ = false;
};

/// Moves what an earlier run's writer left in a folder into another; throws Error.
void move_metrics(const std::string& from, const std::string& to);
/// Copies the lines: a run that goes on from one of their steps drops the rest of them.
void copy_metrics(const std::string& from, const std::string& to);

/// Where metrics.jsonl is to be cut so that it keeps whole lines of steps before `first_dropped` only: the
/// start of the first line at or after that step, else the end of the last whole line. Lines are in order of
/// steps.
std::int64_t kept_bytes(const std::string& jsonl_path,
                        std::int64_t first_dropped = std::numeric_limits<std::int64_t>::max());

/// The system's clock, for MetricsOptions::clock.
double seconds_since_1970();

}  // namespace conclave
