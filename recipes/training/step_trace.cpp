#include "recipes/training/step_trace.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <numeric>

#include "core/error.h"
#include "core/file.h"
#include "core/json_text.h"
#include "recipes/metrics/metrics_writer.h"

namespace conclave {
namespace {

using nlohmann::json;

constexpr std::size_t kNamed = 6;  // in the log's line

// The elements of an array.
// https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU ("Trace Event Format"):
// complete events ("X"), times in microseconds.
std::string events_of(const Timeline& timeline, int rank) {
  std::vector<std::string> events{json_text(json{{"ph", "M"},
                                                 {"name", "process_name"},
                                                 {"pid", rank},
                                                 {"args", {{"name", fmt::format("rank {}", rank)}}}})};
  for (const auto& [name, where, kind, begin, end] : timeline.spans()) {
    json event{{"ph", "X"},
               {"name", name},
               {"cat", kind},
               {"pid", rank},
               {"tid", 0},
               {"ts", 1e6 * begin},
               {"dur", 1e6 * (end - begin)}};
    if (*where != '\0') event["args"] = {{"in", where}};
    events.push_back(json_text(event));
  }
  return fmt::format("{}", fmt::join(events, ",\n"));
}

}  // namespace

std::vector<TimeOf> times_of(std::span<const Timeline::Span> spans) {
  std::vector<std::size_t> order(spans.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::ranges::sort(order, [&](std::size_t a, std::size_t b) {  // a span before those inside it
    return spans[a].begin != spans[b].begin ? spans[a].begin < spans[b].begin : a > b;
  });
  std::vector<TimeOf> times;
  std::vector<std::size_t> open, own(spans.size());  // spans around the present one; where each one's time is
  for (const std::size_t i : order) {
    const Timeline::Span& span = spans[i];
    while (!open.empty() && spans[open.back()].end <= span.begin) open.pop_back();
    const auto same = [&](const TimeOf& time) { return time.name == span.name && time.kind == span.kind; };
    auto time = std::ranges::find_if(times, same);
    if (time == times.end()) time = times.insert(times.end(), TimeOf{span.name, span.kind});
    own[i] = static_cast<std::size_t>(time - times.begin());
    const double seconds = span.end - span.begin;
    time->seconds += seconds;
    ++time->count;
    if (!open.empty()) times[own[open.back()]].seconds -= seconds;
    open.push_back(i);
  }
  std::ranges::sort(times, std::greater(), &TimeOf::seconds);
  return times;
}

std::string write_trace(const Timeline& timeline, Communicator& world, const std::string& directory,
                        std::int64_t step) {
  // Before the ranks' events are gathered, which is recorded, too.
  const std::vector<TimeOf> times = times_of(timeline.spans());
  const std::vector<std::string> of_ranks = world.all_gather(events_of(timeline, world.rank()));
  if (world.rank() != 0) return "";
  const double all = std::accumulate(times.begin(), times.end(), 0.0,
                                     [](double sum, const TimeOf& time) { return sum + time.seconds; });
  std::string said = fmt::format("step {} took {:.1f} ms while it was traced: ", step, 1e3 * all);
  for (std::size_t i = 0; i < std::min(kNamed, times.size()); ++i)
    said += fmt::format("{} ({}) {:.0f}%, ", times[i].name, times[i].kind, 100 * times[i].seconds / all);
  const std::string path = fmt::format("{}/{}{:08}.json", directory, kTracePrefix, step);
  try {
    write_file_atomically(path, fmt::format("{{\"traceEvents\":[\n{}]}}\n", fmt::join(of_ranks, ",\n")));
    said += fmt::format("...; https://ui.perfetto.dev opens {}", path);
  } catch (const Error& error) {
    said += fmt::format("...; its picture is not written: {}", error.what());
  }
  if (timeline.lost() > 0) said += fmt::format("; {} spans found no room", timeline.lost());
  return said;
}

}  // namespace conclave
