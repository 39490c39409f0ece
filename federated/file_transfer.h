// Files that are sent in chunks and resumed after an interruption. The part of a file that has arrived is
// stored beside the final file, under a name that contains the expected digest, so that parts of two
// different files never mix. When the file is complete, it gets its final name.
//
// A part is as long as the file from the beginning, and has behind it the number of bytes that have arrived.
// So a file that is no longer needed can become the next one's part, and its pages and blocks are written
// over. That takes half as long as writing to new ones, of which the system must find and clear each. After a
// power cut the count may be ahead of the bytes; then the digest differs, and the file is sent again.
//
// The digest is XXH3-128. It detects accidental corruption by disks and memory. It does not protect against
// forgery: TLS does that, because it authenticates the sender.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <span>
#include <string>
#include <string_view>

#include "core/durable_file.h"
#include "core/text.h"
#include "core/xxh3.h"

namespace conclave {

/// 4 MiB: on a loopback connection faster than half as much, while twice as much is not faster still. It is
/// also gRPC's default limit for messages.
inline constexpr std::size_t kChunkBytes = std::size_t{4} << 20;

struct FileDigest {
  std::uint64_t bytes = 0;
  Xxh3Digest xxh3{};
  bool operator==(const FileDigest&) const = default;
  std::string hexadecimal() const { return conclave::hexadecimal(std::as_bytes(std::span(xxh3))); }
};

/// Throws Error if the file cannot be read.
FileDigest digest_of(const std::filesystem::path& file);
/// The digest of a file that consists of these bytes.
FileDigest digest_of(std::span<const std::byte> bytes);

/// Bytes that are stored in several places and belong one after the other.
using Pieces = std::span<const std::string_view>;

std::size_t size_of(Pieces pieces);
/// XXH3-64 of the concatenated pieces.
std::uint64_t chunk_checksum(Pieces pieces);
std::uint64_t chunk_checksum(std::string_view data);

/// A file being received.
class IncomingFile {
 public:
  /// Receives `file`, whose size and digest are `expected`. Continues with the part of it that is already on
  /// disk, which is not read before read_back(): a sender may ask many times how much has arrived.
  IncomingFile(std::filesystem::path file, const FileDigest& expected);

  /// Path of the part of `file` that has arrived.
  static std::filesystem::path part_of(const std::filesystem::path& file, const FileDigest& expected);
  /// Bytes of `file` that have arrived in its part; 0 if there is none, or if it cannot be read.
  static std::uint64_t received_of(const std::filesystem::path& file, const FileDigest& expected);
  /// Keeps a complete file that is no longer needed, for make_part().
  static void retire(const std::filesystem::path& file);
  /// Whether a file of this name is a part, or retired.
  static bool is_part(const std::filesystem::path& file);
  static bool is_retired(const std::filesystem::path& file);
  /// Makes a retired file beside `file`, if there is one, its part, unless there is a part. Removes other
  /// parts beside it whose names begin with `sender` and a dot: a sender may take disk space for one only. No
  /// other call may use these files meanwhile.
  static void make_part(const std::filesystem::path& file, const FileDigest& expected,
                        const std::string& sender);

  /// Bytes that have arrived and need not be sent again.
  std::uint64_t received() const { return received_; }
  /// Reads that part, for the digest. append() and finish() do this if it was not done before.
  void read_back();
  /// Throws Error if the chunk is damaged, does not begin at received(), is larger than kChunkBytes, or goes
  /// beyond the file's end. `inspect` is called for each piece before the chunk is stored, and may throw to
  /// reject the chunk. Of a damaged chunk only the damage is reported.
  void append(std::uint64_t offset, Pieces pieces, std::uint64_t checksum,
              const std::function<void(std::string_view)>& inspect = {});
  /// Returns when the file, all of which must have been received, is on disk. After finish(),
  /// sync_directory() makes the new name durable.
  void sync();
  /// Gives the file its final name. Throws Error if bytes are missing; if the digest differs, also discards
  /// what was received.
  void finish();

 private:
  void expect_all() const;
  void restart();

  std::filesystem::path file_, part_;
  FileDigest expected_;
  Xxh3 digest_;
  FileDescriptor descriptor_;
  std::uint64_t received_ = 0, digested_ = 0;  // bytes; digest_ is of the latter
};

/// A file being sent.
class OutgoingFile {
 public:
  explicit OutgoingFile(const std::filesystem::path& file);
  std::uint64_t bytes() const { return bytes_; }
  /// Size of the chunk that begins at `offset`.
  std::size_t chunk_bytes(std::uint64_t offset) const;
  /// Reads the chunk that begins at `offset` into `data`.
  void read(std::uint64_t offset, std::string& data) const;
  /// Fills `data`; throws Error if the file ends before.
  void read_at(void* data, std::size_t size, std::uint64_t offset) const {
    descriptor_.read_at(data, size, offset);
  }

 private:
  FileDescriptor descriptor_;
  std::uint64_t bytes_;
};

/// Says that the disk of `directory` has no room for `needed` more bytes, which are for `what`, with `spare`
/// bytes left for others. "" if it has, or if the file system does not tell.
std::string lacking_room(const std::filesystem::path& directory, double needed, double spare,
                         std::string_view what);

/// What must stay free for other users of a disk, at most.
inline constexpr std::uint64_t kSpareRoom = std::uint64_t{64} << 20;

}  // namespace conclave
