#include "recipes/metrics/metrics_writer.h"

#include <charconv>
#include <chrono>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

#include "core/durable_file.h"
#include "core/error.h"

namespace conclave {
namespace {

constexpr std::string_view kLines = "metrics.jsonl";
constexpr std::string_view kLineStart = "{\"step\":";
// Enough for the loads of a thousand experts; longer lines allocate during training.
constexpr std::size_t kLongestLine = 32 * 1024;

std::string made(const std::string& directory) {
  create_durable_directories(directory);
  return directory;
}

void append_number(fmt::memory_buffer& out, double value) {
  if (std::isfinite(value))
    fmt::format_to(std::back_inserter(out), "{}", value);
  else
    out.append(std::string_view("null"));
}

void append_name(fmt::memory_buffer& out, std::string_view name) {
  out.append(std::string_view(",\""));
  for (const char c : name) {
    if (static_cast<unsigned char>(c) < 0x20) {
      fmt::format_to(std::back_inserter(out), "\\u{:04x}", static_cast<int>(c));
      continue;
    }
    if (c == '"' || c == '\\') out.push_back('\\');
    out.push_back(c);
  }
  out.append(std::string_view("\":"));
}

/// The step of a line written by write(); nullopt for any other line.
std::optional<std::int64_t> step_of(std::string_view line) {
  if (!line.starts_with(kLineStart) || !line.ends_with('}')) return std::nullopt;
  std::int64_t step = 0;
  const auto [end, error] = std::from_chars(line.data() + kLineStart.size(), line.data() + line.size(), step);
  return error == std::errc{} && (*end == ',' || *end == '}') ? std::optional(step) : std::nullopt;
}

}  // namespace

std::int64_t kept_bytes(const std::string& jsonl_path, std::int64_t first_dropped) {
  std::ifstream file(jsonl_path, std::ios::binary);
  std::int64_t begin = 0, kept = 0;
  for (std::string line; std::getline(file, line);) {
    if (file.eof()) break;  // an incomplete line, without a newline
    const std::int64_t end = begin + static_cast<std::int64_t>(line.size()) + 1;
    if (const auto step = step_of(line)) {
      if (*step >= first_dropped) break;
      kept = end;
    }
    begin = end;
  }
  return kept;
}

double seconds_since_1970() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

void move_metrics(const std::string& from, const std::string& to) {
  std::vector<std::filesystem::path> files;
  for (const auto& entry : std::filesystem::directory_iterator(from))
    if (const std::string name = entry.path().filename().string();
        name == kLines || name.starts_with(kEventFilePrefix) || name.starts_with(kTracePrefix))
      files.push_back(entry.path());
  for (const auto& file : files) {
    std::error_code error;
    std::filesystem::rename(file, std::filesystem::path(to) / file.filename(), error);
    require(!error, "{}: cannot be moved to {}: {}", file.string(), to, error.message());
  }
}

void copy_metrics(const std::string& from, const std::string& to) {
  const std::filesystem::path file = std::filesystem::path(from) / kLines;
  if (!std::filesystem::exists(file)) return;
  const std::filesystem::path copy = std::filesystem::path(to) / kLines, part = copy.string() + ".tmp";
  std::error_code error;
  std::filesystem::copy_file(file, part, error);
  if (!error) std::filesystem::rename(part, copy, error);
  require(!error, "{}: cannot be copied to {}: {}", file.string(), to, error.message());
}

bool has_metrics(const std::string& directory) {
  return std::filesystem::exists(std::filesystem::path(directory) / kLines);
}

MetricsWriter::MetricsWriter(MetricsOptions options)
    : options_(std::move(options)),
      lines_(fmt::format("{}/{}", made(options_.directory), kLines)),
      events_(options_.directory, options_.clock(), options_.host) {
  line_.reserve(kLongestLine);
  if (std::filesystem::is_regular_file(lines_.path()))
    if (const int reason = lines_.truncate(kept_bytes(lines_.path()))) warn_once(lines_.path(), reason);
}

void MetricsWriter::write(std::int64_t step, std::span<const Metric> metrics) {
  const double now = options_.clock();
  line_.clear();
  fmt::format_to(std::back_inserter(line_), "{}{},\"time\":{:.3f}", kLineStart, step, now);
  for (const Metric& metric : metrics) {
    append_name(line_, metric.name);
    if (!metric.is_array) {
      append_number(line_, metric.scalar);
      continue;
    }
    line_.push_back('[');
    for (std::size_t i = 0; i < metric.array.size(); ++i) {
      if (i > 0) line_.push_back(',');
      append_number(line_, metric.array[i]);
    }
    line_.push_back(']');
  }
  line_.append(std::string_view("}\n"));
  if (const int reason = lines_.append({line_.data(), line_.size()})) warn_once(lines_.path(), reason);
  if (const int reason = events_.write(now, step, metrics)) warn_once(events_.path(), reason);
}

void MetricsWriter::truncate_from(std::int64_t step) {
  if (std::filesystem::is_regular_file(lines_.path()))
    if (const int reason = lines_.truncate(kept_bytes(lines_.path(), step))) warn_once(lines_.path(), reason);
  if (const int reason = events_.restart(options_.clock(), step)) warn_once(events_.path(), reason);
}

void MetricsWriter::drop_evaluation(std::int64_t step, const std::string& split) {
  if (!std::filesystem::is_regular_file(lines_.path())) return;
  std::ifstream file(lines_.path(), std::ios::binary);
  std::int64_t end = 0, kept = 0;  // after the last line, and the last that is something else
  for (std::string line; std::getline(file, line);) {
    end += static_cast<std::int64_t>(line.size()) + 1;
    const bool of_split =
        line.find("\"" + split + "/") != line.npos || line.find("/" + split + "/") != line.npos;
    if (step_of(line) != step || !of_split) kept = end;
  }
  if (kept == end) return;
  if (const int reason = lines_.truncate(kept)) warn_once(lines_.path(), reason);
}

void MetricsWriter::warn_once(const std::string& path, int reason) {
  if (std::exchange(warned_, true) || !options_.warn) return;
  options_.warn(fmt::format("{}: metrics cannot be written ({}); training goes on without them", path,
                            std::strerror(reason)));
}

}  // namespace conclave
