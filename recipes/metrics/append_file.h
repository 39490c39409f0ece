// A file that only grows, record by record: a record is there whole or not at all. What a full disk cut short
// is taken back, so that the file stays readable and later records follow the last good one.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace conclave {

class AppendFile {
 public:
  /// Opens `path` for appending and makes it where it is missing; with `fresh`, throws where it exists.
  /// Throws Error with the path and the reason.
  explicit AppendFile(const std::string& path, bool fresh = false);
  ~AppendFile();
  AppendFile(AppendFile&& other) noexcept;
  AppendFile& operator=(AppendFile&&) = delete;

  /// One write of the whole record. Returns 0, or errno where nothing of it is kept. Allocates nothing.
  int append(std::string_view record);
  /// Cuts the file to its first `size` bytes. Returns 0 or errno.
  int truncate(std::int64_t size);

  const std::string& path() const { return path_; }

 private:
  std::string path_;
  int descriptor_ = -1;
};

}  // namespace conclave
