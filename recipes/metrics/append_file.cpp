#include "recipes/metrics/append_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "core/error.h"

namespace conclave {

AppendFile::AppendFile(const std::string& path, bool fresh) : path_(path) {
  descriptor_ = ::open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | (fresh ? O_EXCL : 0), 0666);
  require(descriptor_ >= 0, "{}: cannot be opened for writing: {}", path, std::strerror(errno));
}

AppendFile::~AppendFile() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

AppendFile::AppendFile(AppendFile&& other) noexcept
    : path_(std::move(other.path_)), descriptor_(std::exchange(other.descriptor_, -1)) {}

int AppendFile::append(std::string_view record) {
  const off_t before = ::lseek(descriptor_, 0, SEEK_END);
  std::size_t written = 0;
  while (written < record.size()) {
    const ssize_t count = ::write(descriptor_, record.data() + written, record.size() - written);
    if (count > 0) {
      written += static_cast<std::size_t>(count);
    } else if (count == 0 || errno != EINTR) {
      const int reason = count == 0 ? EIO : errno;
      if (written > 0 && before >= 0) truncate(before);
      return reason;
    }
  }
  return 0;
}

int AppendFile::truncate(std::int64_t size) { return ::ftruncate(descriptor_, size) == 0 ? 0 : errno; }

}  // namespace conclave
