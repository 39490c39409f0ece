// Access log: one line of JSON per request, with the client, the path and the result, but without the bodies
// of the request and the answer.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <deque>
#include <mutex>
#include <optional>
#include <stop_token>
#include <string>
#include <string_view>
#include <thread>

#include "recipes/metrics/append_file.h"

namespace conclave::service {

class AccessLog {
 public:
  /// Appends to the file; throws Error where it cannot be opened.
  explicit AccessLog(const std::string& path);

  struct Entry {
    std::string_view address;       ///< client_network(), by which the rate limit counts
    std::string_view method, path;  ///< "" if the bytes received were not an HTTP request
    int status = 0;
    double seconds = 0;         ///< from the last byte of the request to its answer
    std::size_t bytes_out = 0;  ///< bytes of the answer, including its head
  };
  /// Thread-safe. An entry that cannot be written is lost; only the first loss since the log was opened
  /// prints a warning.
  void note(const Entry& entry);
  /// Thread-safe. Does not wait for the file: a thread of the log's own, or note(), writes the entry. Lost if
  /// kMostWaiting entries wait already; a line {"time", "not_logged"} then says how many were lost there.
  void note_later(const Entry& entry);
  /// Thread-safe. Opens the path again, for log rotation: later entries go to the file that is there now.
  /// Throws Error where it cannot be opened; the log then keeps the old file.
  void reopen();

 private:
  static constexpr std::size_t kMostWaiting = 1024;

  void write(const std::string& line);
  void write_waiting();

  std::mutex mutex_;  // of the file; held while it is written
  std::optional<AppendFile> file_;
  bool warned_ = false;
  std::mutex waiting_mutex_;  // never held while anything waits; the last to be locked
  std::condition_variable_any comes_;
  std::deque<std::string> waiting_;
  std::size_t lost_ = 0;  // entries that came after those waiting
  std::jthread writer_;
};

}  // namespace conclave::service
