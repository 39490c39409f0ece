// Who asked for what, and what became of it: a line of JSON for each request, without what it asked and what
// was answered.
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
    std::string_view address;       ///< as rates are counted by
    std::string_view method, path;  ///< "" of what was no request
    int status = 0;
    double seconds = 0;         ///< from the last byte of the request
    std::size_t bytes_out = 0;  ///< of the answer, head and all
  };
  /// From any thread. What cannot be written is lost, and warned of once.
  void note(const Entry& entry);
  /// From any thread. Goes on in the file that is at the path now, where the former was moved away. Throws as
  /// the constructor, and then goes on where it was.
  void reopen();

 private:
  std::mutex mutex_;
  std::optional<AppendFile> file_;
  bool warned_ = false;
};

}  // namespace conclave::service
