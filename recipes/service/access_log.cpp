#include "recipes/service/access_log.h"

#include <fmt/format.h>

#include <cstring>
#include <nlohmann/json.hpp>
#include <utility>

#include "core/json_text.h"
#include "core/print_line.h"
#include "recipes/metrics/metrics_writer.h"

namespace conclave::service {

namespace {

std::string line_of(const AccessLog::Entry& entry) {
  using Json = nlohmann::ordered_json;
  const Json json{{"time", seconds_since_1970()}, {"address", entry.address}, {"method", entry.method},
                  {"path", entry.path},           {"status", entry.status},   {"seconds", entry.seconds},
                  {"bytes_out", entry.bytes_out}};
  return json_text(json) + "\n";
}

}  // namespace

AccessLog::AccessLog(const std::string& path)
    : file_(path), writer_([this](const std::stop_token& ends) {
        for (bool some = true; some;) {
          {
            std::unique_lock lock(waiting_mutex_);
            some = comes_.wait(lock, ends, [this] { return !waiting_.empty(); });
          }
          const std::lock_guard lock(mutex_);
          write_waiting();
        }
      }) {}

void AccessLog::note(const Entry& entry) {
  const std::string line = line_of(entry);
  const std::lock_guard lock(mutex_);
  write_waiting();  // which came before
  write(line);
}

void AccessLog::note_later(const Entry& entry) {
  std::string line = line_of(entry);
  {
    const std::lock_guard lock(waiting_mutex_);
    if (waiting_.size() >= kMostWaiting) {
      ++lost_;
      return;
    }
    waiting_.push_back(std::move(line));
  }
  comes_.notify_one();
}

// Called with mutex_ held, as is write().
void AccessLog::write_waiting() {
  std::deque<std::string> lines;
  std::size_t lost = 0;
  {
    const std::lock_guard lock(waiting_mutex_);
    lines.swap(waiting_);
    lost = std::exchange(lost_, 0);
  }
  for (const std::string& line : lines) write(line);
  if (lost > 0)
    write(json_text(nlohmann::ordered_json{{"time", seconds_since_1970()}, {"not_logged", lost}}) + "\n");
}

void AccessLog::write(const std::string& line) {
  const int reason = file_->append(line);
  if (reason == 0 || warned_) return;
  warned_ = true;
  warn(file_->path(), ": ", std::strerror(reason), "; requests are not logged");
}

void AccessLog::reopen() {
  AppendFile anew(file_->path());
  const std::lock_guard lock(mutex_);
  write_waiting();
  file_.emplace(std::move(anew));
  warned_ = false;
}

}  // namespace conclave::service
