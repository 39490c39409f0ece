// Files that travel in chunks, and go on where they broke. What has arrived of one is a file beside it whose
// name has its digest in it, so that the parts of two files never mix; it takes its own name when it is
// whole.
//
// The digest is XXH3-128, which finds what disks and memory do by accident. Against forgery there is TLS,
// which knows who sent it.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "core/durable_file.h"
#include "core/text.h"
#include "core/xxh3.h"

namespace conclave {

/// 4 MiB: the largest that still gains over half its size on a loopback, and gRPC's own limit by default.
inline constexpr std::size_t kChunkBytes = std::size_t{4} << 20;

struct FileDigest {
  std::uint64_t bytes = 0;
  Xxh3Digest xxh3{};
  bool operator==(const FileDigest&) const = default;
  std::string hexadecimal() const { return conclave::hexadecimal(std::as_bytes(std::span(xxh3))); }
};

/// Throws Error where it cannot be read.
FileDigest digest_of(const std::filesystem::path& file);
/// Of a file with these bytes.
FileDigest digest_of(std::span<const std::byte> bytes);

/// Bytes that lie in several places, one after the other.
using Pieces = std::span<const std::string_view>;

std::size_t size_of(Pieces pieces);
/// XXH3-64.
std::uint64_t chunk_checksum(Pieces pieces);
std::uint64_t chunk_checksum(std::string_view data);

/// A file being received.
class IncomingFile {
 public:
  /// Goes on with what is there of `file` to come, which is what `expected` says.
  IncomingFile(std::filesystem::path file, const FileDigest& expected);

  /// Where what has come of it lies.
  static std::filesystem::path part_of(const std::filesystem::path& file, const FileDigest& expected);
  /// Removes what lies in `directory` of other files whose names begin with `sender` and a dot, and which did
  /// not come whole: who sends has room for one, `kept`.
  static void remove_other_parts(const std::filesystem::path& directory, const std::string& sender,
                                 const std::filesystem::path& kept);

  /// Bytes that need not come again.
  std::uint64_t received() const { return received_; }
  /// Throws Error where the chunk is damaged, does not begin at received(), or goes beyond the file's end.
  /// `inspect` sees each piece, and may throw, before anything is kept.
  void append(std::uint64_t offset, Pieces pieces, std::uint64_t checksum,
              const std::function<void(std::string_view)>& inspect = {});
  /// Once all was received: gives the file its name. Throws Error, and begins anew, where the whole is not
  /// what was expected.
  void finish();

 private:
  void restart();

  std::filesystem::path file_, part_;
  FileDigest expected_;
  Xxh3 digest_;
  std::optional<FileDescriptor> descriptor_;
  std::uint64_t received_ = 0;
};

/// A file being sent.
class OutgoingFile {
 public:
  explicit OutgoingFile(const std::filesystem::path& file);
  std::uint64_t bytes() const { return bytes_; }
  /// How many bytes a chunk from `offset` on has.
  std::size_t chunk_bytes(std::uint64_t offset) const;
  /// A chunk, in `data`.
  void read(std::uint64_t offset, std::string& data) const;
  /// Fills `data`; throws Error where the file ends before.
  void read_at(void* data, std::size_t size, std::uint64_t offset) const {
    descriptor_.read_at(data, size, offset);
  }

 private:
  FileDescriptor descriptor_;
  std::uint64_t bytes_;
};

}  // namespace conclave
