#include "recipes/metrics/event_file.h"

#include <fmt/format.h>

#include <bit>
#include <cmath>
#include <filesystem>
#include <limits>

#include "recipes/metrics/crc32c.h"

namespace conclave {
namespace {

static_assert(std::endian::native == std::endian::little, "frames and protobuf are little-endian");

template <class T>
void append_raw(std::string& out, T value) {
  out.append(reinterpret_cast<const char*>(&value), sizeof value);
}

void append_varint(std::string& out, std::uint64_t value) {
  for (; value >= 0x80; value >>= 7) out += static_cast<char>(value | 0x80);
  out += static_cast<char>(value);
}

// The tag byte of each field: field number << 3 | wire type (0 varint, 1 eight bytes, 2 length-delimited, 5
// four bytes).
constexpr char kWallTime = 1 << 3 | 1, kStep = 2 << 3 | 0, kFileVersion = 3 << 3 | 2, kSummary = 5 << 3 | 2,
               kSessionLog = 7 << 3 | 2;
constexpr char kValue = 1 << 3 | 2, kTag = 1 << 3 | 2, kSimpleValue = 2 << 3 | 5;
constexpr std::string_view kSessionStart = "\x08\x01";  // SessionLog { status: START }

/// The nearest float; values beyond the largest float become infinite, where a plain cast is undefined.
float to_float(double value) {
  constexpr double kLargest = std::numeric_limits<float>::max();
  if (std::abs(value) > kLargest) return std::numeric_limits<float>::infinity() * (value < 0 ? -1.0f : 1.0f);
  return static_cast<float>(value);
}

std::size_t varint_size(std::uint64_t value) {
  std::size_t size = 1;
  for (; value >= 0x80; value >>= 7) ++size;
  return size;
}

/// Value { tag: NAME + suffix, simple_value: value }
void append_value(std::string& out, std::string_view name, std::string_view suffix, double value) {
  const std::size_t tag = name.size() + suffix.size();
  out += kValue;
  append_varint(out, 1 + varint_size(tag) + tag + 1 + sizeof(float));
  out += kTag;
  append_varint(out, tag);
  out.append(name).append(suffix);
  out += kSimpleValue;
  append_raw(out, to_float(value));
}

AppendFile make_file(const std::string& directory, double wall_time, const std::string& host) {
  const std::string base =
      fmt::format("{}/{}{:010}.{}", directory, kEventFilePrefix, static_cast<std::int64_t>(wall_time), host);
  std::string path = base;
  for (int number = 1; std::filesystem::exists(path); ++number) path = fmt::format("{}.{}", base, number);
  return AppendFile(path, /*fresh=*/true);
}

}  // namespace

EventFile::EventFile(const std::string& directory, double wall_time, const std::string& host)
    : file_(make_file(directory, wall_time, host)) {
  for (std::string* buffer : {&summary_, &frame_}) buffer->reserve(64 * 1024);  // for events of 1500 values
  append_event(wall_time, 0, kFileVersion, "brain.Event:2");
}

int EventFile::write(double wall_time, std::int64_t step, std::span<const Metric> metrics) {
  summary_.clear();
  for (const Metric& metric : metrics) {
    if (!metric.is_array) append_value(summary_, metric.name, "", metric.scalar);
    for (std::size_t i = 0; i < metric.array.size(); ++i) {
      char suffix[24];
      const auto end = fmt::format_to_n(suffix, sizeof suffix, "/{}", i).out;
      append_value(summary_, metric.name, {suffix, end}, metric.array[i]);
    }
  }
  return append_event(wall_time, step, kSummary, summary_);
}

int EventFile::restart(double wall_time, std::int64_t step) {
  return append_event(wall_time, step, kSessionLog, kSessionStart);
}

int EventFile::append_event(double wall_time, std::int64_t step, char field, std::string_view content) {
  constexpr std::size_t kHeader = sizeof(std::uint64_t) + sizeof(std::uint32_t);
  frame_.assign(kHeader, '\0');
  frame_ += kWallTime;
  append_raw(frame_, wall_time);
  frame_ += kStep;
  append_varint(frame_, static_cast<std::uint64_t>(step));
  frame_ += field;
  append_varint(frame_, content.size());
  frame_ += content;

  const std::uint64_t length = frame_.size() - kHeader;
  std::string_view view(frame_);
  const std::uint32_t data_crc = masked_crc32c(view.substr(kHeader));
  std::string_view length_bytes(reinterpret_cast<const char*>(&length), sizeof length);
  const std::uint32_t length_crc = masked_crc32c(length_bytes);
  length_bytes.copy(frame_.data(), sizeof length);
  std::string_view(reinterpret_cast<const char*>(&length_crc), sizeof length_crc)
      .copy(frame_.data() + sizeof length, sizeof length_crc);
  append_raw(frame_, data_crc);
  return file_.append(frame_);
}

}  // namespace conclave
