// A file on disk is either the old one or the whole new one, also after a power cut: write under a temporary
// name in the same directory, fsync, rename, fsync the directory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <utility>

namespace conclave {

class FileDescriptor {
 public:
  /// open(2); throws Error naming the path and the system's reason.
  FileDescriptor(const std::string& path, int flags, unsigned mode = 0644);
  ~FileDescriptor();
  FileDescriptor(const FileDescriptor&) = delete;
  FileDescriptor& operator=(const FileDescriptor&) = delete;

  /// All `size` bytes, from the beginning of the file on or after what write() wrote before; throws Error.
  void write(const void* data, std::size_t size);
  void write_at(const void* data, std::size_t size, std::uint64_t offset);
  /// Pieces that lie in several places, one after the other.
  void write_at(std::span<const std::string_view> pieces, std::uint64_t offset);
  /// Fills `data`; throws Error where the file has not so many bytes from there on.
  void read_at(void* data, std::size_t size, std::uint64_t offset) const;
  /// Returns when the file's bytes are on the disk; throws Error.
  void sync();
  /// Takes blocks for the first `size` bytes now, so that writing them later cannot find the disk or the
  /// quota full; does nothing on file systems that cannot. Throws Error where there is no room.
  void reserve(std::uint64_t size);
  std::uint64_t size() const;
  void resize(std::uint64_t size);

 private:
  std::string path_;
  int descriptor_;
  std::uint64_t end_ = 0;  // of what write() wrote
};

/// Makes a directory, and those above it that are missing, so that a power cut leaves them; throws Error.
void create_durable_directories(const std::filesystem::path& directory);

/// A folder that one process at a time writes to; held as long as that process lives, however it ends.
class DirectoryLock {
 public:
  /// Makes the folder where it is missing, and in it a file, "lock". Throws Error where another process still
  /// has it after `patience` seconds, or it cannot be written to. Does nothing on file systems without locks.
  explicit DirectoryLock(const std::filesystem::path& directory, double patience = 0);
  ~DirectoryLock();
  DirectoryLock(const DirectoryLock&) = delete;
  DirectoryLock& operator=(const DirectoryLock&) = delete;

 private:
  int descriptor_;
};

/// Returns when the names in it are on the disk; throws Error.
void sync_directory(const std::filesystem::path& directory);

/// The temporary that becomes `path` on commit(), and disappears otherwise.
class AtomicFile {
 public:
  explicit AtomicFile(const std::string& path) : AtomicFile(path, path + ".tmp") {}
  /// `temporary` must be in the directory of `path`.
  AtomicFile(std::string path, std::string temporary)
      : path_(std::move(path)), temporary_(std::move(temporary)) {}
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  const std::string& temporary() const { return temporary_; }
  /// Puts what was written to temporary(), by then closed, in the place of `path`; throws Error.
  void commit();

 private:
  std::string path_, temporary_;
  bool committed_ = false;
};

}  // namespace conclave
