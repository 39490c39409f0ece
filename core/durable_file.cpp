// Thin wrappers around system calls, with every error checked.
#include "core/durable_file.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <thread>

#include "core/clock.h"
#include "core/error.h"

namespace conclave {

void sync_directory(const std::filesystem::path& directory) {
  FileDescriptor(directory.empty() ? "." : directory.string(), O_RDONLY | O_DIRECTORY).sync();
}

FileDescriptor::FileDescriptor(const std::string& path, int flags, unsigned mode)
    : path_(path), descriptor_(::open(path.c_str(), flags | O_CLOEXEC, mode)) {
  require(descriptor_ >= 0, "{}: cannot be opened: {}", path_, std::strerror(errno));
}

FileDescriptor::~FileDescriptor() { ::close(descriptor_); }

void FileDescriptor::write(const void* data, std::size_t size) {
  write_at(data, size, end_);
  end_ += size;
}

void FileDescriptor::write_at(const void* data, std::size_t size, std::uint64_t offset) {
  const std::string_view piece(static_cast<const char*>(data), size);
  write_at(std::span(&piece, 1), offset);
}

void FileDescriptor::write_at(std::span<const std::string_view> pieces, std::uint64_t offset) {
  std::array<iovec, 256> some;  // fewer than IOV_MAX (1,024), the most that pwritev takes
  std::size_t written = 0;      // bytes of the first piece
  while (true) {
    for (; !pieces.empty() && written >= pieces.front().size(); pieces = pieces.subspan(1))
      written -= pieces.front().size();
    if (pieces.empty()) return;
    const auto next = pieces.first(std::min(pieces.size(), some.size()));
    for (std::size_t i = 0; i < next.size(); ++i) {
      const std::string_view left = next[i].substr(i == 0 ? written : 0);
      some[i] = {const_cast<char*>(left.data()), left.size()};
    }
    const ssize_t more =
        ::pwritev(descriptor_, some.data(), static_cast<int>(next.size()), static_cast<off_t>(offset));
    if (more < 0 && errno == EINTR) continue;
    require(more > 0, "{}: cannot be written: {}", path_, std::strerror(errno));
    offset += static_cast<std::uint64_t>(more);
    written += static_cast<std::size_t>(more);
  }
}

void FileDescriptor::read_at(void* data, std::size_t size, std::uint64_t offset) const {
  char* at = static_cast<char*>(data);
  while (size > 0) {
    const ssize_t got = ::pread(descriptor_, at, size, static_cast<off_t>(offset));
    if (got < 0 && errno == EINTR) continue;
    require(got != 0, "{}: ends {} bytes early", path_, size);
    require(got > 0, "{}: cannot be read: {}", path_, std::strerror(errno));
    at += got;
    offset += static_cast<std::uint64_t>(got);
    size -= static_cast<std::size_t>(got);
  }
}

void FileDescriptor::resize(std::uint64_t size) {
  const bool done = ::ftruncate(descriptor_, static_cast<off_t>(size)) == 0;
  require(done, "{}: cannot get {} bytes: {}", path_, size, std::strerror(errno));
}

void FileDescriptor::sync() {
  const bool done = ::fsync(descriptor_) == 0;  // before require(), whose arguments may read errno first
  require(done, "{}: fsync: {}", path_, std::strerror(errno));
}

void FileDescriptor::reserve(std::uint64_t size) {
  int result = 0;
  do result = size == 0 ? 0 : ::fallocate(descriptor_, 0, 0, static_cast<off_t>(size));
  while (result != 0 && errno == EINTR);
  require(result == 0 || errno == EOPNOTSUPP || errno == ENOSYS, "{}: no room for {} bytes: {}", path_, size,
          std::strerror(errno));
}

void* FileDescriptor::map(std::size_t size) const {
  void* const mapped = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor_, 0);
  require(mapped != MAP_FAILED, "{}: {} bytes of it cannot be mapped: {}", path_, size, std::strerror(errno));
  return mapped;
}

std::uint64_t FileDescriptor::size() const {
  struct stat status {};
  const bool done = ::fstat(descriptor_, &status) == 0;
  require(done, "{}: fstat: {}", path_, std::strerror(errno));
  return static_cast<std::uint64_t>(status.st_size);
}

void create_durable_directories(const std::filesystem::path& directory) {
  std::error_code error;
  if (directory.empty() || std::filesystem::is_directory(directory, error)) return;
  create_durable_directories(directory.parent_path());
  std::filesystem::create_directory(directory, error);
  if (error == std::errc::file_exists) error = make_error_code(std::errc::not_a_directory);  // not a folder
  require(!error, "{}: the folder cannot be made: {}", directory.string(), error.message());
  sync_directory(directory.parent_path());
}

DirectoryLock::DirectoryLock(const std::filesystem::path& directory, double patience) {
  create_durable_directories(directory);
  const std::string path = (directory / "lock").string();
  descriptor_ = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  require(descriptor_ >= 0, "{}: cannot be opened: {}", path, std::strerror(errno));
  for (const auto until = Clock::now() + seconds(patience); ::flock(descriptor_, LOCK_EX | LOCK_NB) != 0;) {
    if (errno == EINTR) continue;
    if (errno != EWOULDBLOCK) return;
    if (Clock::now() >= until) {
      ::close(descriptor_);
      fail("{}: another process is at work in this folder; end that one, or choose another folder",
           directory.string());
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  }
}

DirectoryLock::~DirectoryLock() { ::close(descriptor_); }

AtomicFile::~AtomicFile() {
  if (!committed_) ::unlink(temporary_.c_str());
}

void AtomicFile::write(std::string_view bytes, unsigned mode) {
  ::unlink(temporary_.c_str());
  FileDescriptor file(temporary_, O_WRONLY | O_CREAT | O_EXCL, mode);
  file.reserve(bytes.size());
  file.write(bytes.data(), bytes.size());
}

void AtomicFile::commit() {
  FileDescriptor(temporary_, O_RDONLY).sync();
  const bool done = std::rename(temporary_.c_str(), path_.c_str()) == 0;
  require(done, "{}: cannot be renamed to {}: {}", temporary_, path_, std::strerror(errno));
  committed_ = true;
  sync_directory(std::filesystem::path(path_).parent_path());
}

}  // namespace conclave
