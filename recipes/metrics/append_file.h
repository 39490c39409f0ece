// A file to which records are appended, each wholly or not at all. A partly written record, e.g. on a full
// disk, is cut off again, so that the file stays readable and later records follow the last complete one.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace conclave {

class AppendFile {
 public:
  /// Opens `path` for appending and creates it if missing; with `fresh`, an existing file is an error. Throws
  /// Error with the path and the reason.
  explicit AppendFile(const std::string& path, bool fresh = false);
  ~AppendFile();
  AppendFile(AppendFile&& other) noexcept;
  AppendFile& operator=(AppendFile&&) = delete;

  /// Appends the record. Returns 0, or errno if nothing of the record was kept. Allocates nothing.
  int append(std::string_view record);
  /// Cuts the file to its first `size` bytes. Returns 0 or errno.
  int truncate(std::int64_t size);

  const std::string& path() const { return path_; }

 private:
  std::string path_;
  int descriptor_ = -1;
};

}  // namespace conclave
