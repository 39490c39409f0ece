// Files that survive a power cut: a file on disk is either the old version or the complete new one. The new
// one is written under a temporary name in the same directory; then fsync, rename, and fsync of the
// directory.
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

  /// Writes all `size` bytes; throws Error. write() begins at offset 0 and appends to what it wrote before.
  void write(const void* data, std::size_t size);
  void write_at(const void* data, std::size_t size, std::uint64_t offset);
  /// Writes pieces from several places in memory one after another.
  void write_at(std::span<const std::string_view> pieces, std::uint64_t offset);
  /// Fills `data`; throws Error if the file has fewer bytes from `offset` on.
  void read_at(void* data, std::size_t size, std::uint64_t offset) const;
  /// Returns when the file's data is on disk; throws Error.
  void sync();
  /// Allocates disk blocks for the first `size` bytes, so that later writes to them cannot run into a full
  /// disk or quota. Throws Error if there is no room; does nothing on file systems without fallocate.
  void reserve(std::uint64_t size);
  /// The first `size` bytes, mapped for reading and writing and shared with the file; the caller unmaps them.
  /// The file must be open for both. Throws Error.
  void* map(std::size_t size) const;
  std::uint64_t size() const;
  void resize(std::uint64_t size);

 private:
  std::string path_;
  int descriptor_;
  std::uint64_t end_ = 0;  // where write() continues
};

/// Creates a directory and its missing parents, so that they survive a power cut: syncs the directory above
/// each one that it creates. Throws Error.
void create_durable_directories(const std::filesystem::path& directory);

/// A lock on a directory that only one process at a time may write to. The system releases it when the
/// process ends, however it ends.
class DirectoryLock {
 public:
  /// Creates the directory if it is missing, and in it a file, "lock". Throws Error if another process still
  /// has the lock after `patience` seconds, or if the directory is not writable. Does nothing on file systems
  /// without locks.
  explicit DirectoryLock(const std::filesystem::path& directory, double patience = 0);
  ~DirectoryLock();
  DirectoryLock(const DirectoryLock&) = delete;
  DirectoryLock& operator=(const DirectoryLock&) = delete;

 private:
  int descriptor_;
};

/// Returns when the directory's entries are on disk; throws Error.
void sync_directory(const std::filesystem::path& directory);

/// A temporary file that commit() renames to `path`; without a commit the destructor deletes it.
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
  /// Makes the temporary file anew, with these bytes; nobody has other rights to it than `mode` gives at any
  /// time, also if a crash has left one. Throws Error.
  void write(std::string_view bytes, unsigned mode = 0644);
  /// Syncs the temporary file, which must be closed by now, renames it to `path`, and syncs the directory;
  /// throws Error.
  void commit();

 private:
  std::string path_, temporary_;
  bool committed_ = false;
};

}  // namespace conclave
