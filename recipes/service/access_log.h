// Access log: one line of JSON per request, with the client, the path and the result, but without the bodies
// of the request and the answer.
#pragma once

#include <cstddef>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>

#include "recipes/metrics/append_file.h"

namespace conclave::service {

class AccessLog {
 public:
  /// Appends to the file; throws Error where it cannot be opened.
  explicit AccessLog(const std::string& path) : file_(path) {}

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
  /// Thread-safe. Opens the path again, for log rotation: later entries go to the file that is there now.
  /// Throws Error where it cannot be opened; the log then keeps the old file.
  void reopen();

 private:
  std::mutex mutex_;
  std::optional<AppendFile> file_;
  bool warned_ = false;
};

}  // namespace conclave::service
