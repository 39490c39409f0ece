// Writes TensorBoard's event file without TensorFlow: TFRecord frames (length, CRC of the length, data, CRC
// of the data) around Event messages of tensorflow/core/util/event.proto. Only these fields are encoded:
//   Event   { 1: double wall_time, 2: int64 step, 3: string file_version, 5: Summary summary,
//             7: SessionLog session_log }
//   Summary { 1: repeated Value }   Value { 1: string tag, 2: float simple_value }   SessionLog { 1: status }
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "recipes/metrics/append_file.h"
#include "recipes/metrics/metric.h"

namespace conclave {

inline constexpr std::string_view kEventFilePrefix = "events.out.tfevents.";

class EventFile {
 public:
  /// Creates DIRECTORY/events.out.tfevents.<seconds>.<host>, or that name with .1, .2, ... appended if it
  /// exists. Throws Error if it cannot be created.
  EventFile(const std::string& directory, double wall_time, const std::string& host);

  /// Writes one Event with a value per metric; an array's elements are NAME/0, NAME/1, ... Returns 0, or
  /// errno if the event was lost. Allocates nothing after an event with as many metrics was written.
  int write(double wall_time, std::int64_t step, std::span<const Metric> metrics);
  /// Tells TensorBoard to ignore what earlier files of this folder contain for `step` and later steps.
  /// Returns 0 or errno.
  int restart(double wall_time, std::int64_t step);

  const std::string& path() const { return file_.path(); }

 private:
  int append_event(double wall_time, std::int64_t step, char field, std::string_view content);

  AppendFile file_;
  std::string summary_, frame_;  // reused, so that events do not allocate
};

}  // namespace conclave
