// What all ranks did in one training step, as a file for trace viewers and as a line for the log.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "core/timeline.h"
#include "parallel/communicator.h"

namespace conclave {

/// The kind of spans that are parts of a step, and have functions and communication in them.
inline constexpr const char* kStepSpan = "step";

/// Time spent in spans of one name and kind, without that in spans inside them.
struct TimeOf {
  std::string name, kind;
  double seconds = 0;
  std::int64_t count = 0;
};

/// The most time first. Spans must be of one thread, so each is within another or beside it.
std::vector<TimeOf> times_of(std::span<const Timeline::Span> spans);

/// Writes `directory`/trace-STEP.json, with a process for each rank, in the format of Chrome's trace events.
/// Returns on rank 0 what took most of its time, and the file's path, or why it could not be written.
/// Collective.
std::string write_trace(const Timeline& timeline, Communicator& world, const std::string& directory,
                        std::int64_t step);

}  // namespace conclave
