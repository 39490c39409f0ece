#include "federated/file_transfer.h"

#include <fcntl.h>
#include <fmt/format.h>

#include <algorithm>
#include <exception>
#include <optional>

#include "core/error.h"

namespace conclave {
namespace {

constexpr const char* kPart = ".part";
constexpr const char* kRetired = ".retired";

using Count = std::uint64_t;  // of the bytes that have arrived, behind a part's last byte

// How much of `expected` has arrived in its part; nothing if the file is no part of that length. Without a
// count a part is as long as the file, because the file is complete. No number of an update is cut.
std::optional<Count> count_of(const FileDescriptor& part, const FileDigest& expected) {
  const std::uint64_t size = part.size();
  if (size == expected.bytes) return size;
  Count count = 0;
  if (size != expected.bytes + sizeof count) return std::nullopt;
  part.read_at(&count, sizeof count, expected.bytes);
  if (count > expected.bytes || (count % sizeof(float) != 0 && count != expected.bytes)) return std::nullopt;
  return count;
}

void set_count(FileDescriptor& part, const FileDigest& expected, Count count) {
  part.write_at(&count, sizeof count, expected.bytes);
}

// Makes the file a part of which nothing has arrived.
void empty(FileDescriptor& part, const FileDigest& expected) {
  part.resize(expected.bytes + sizeof(Count));
  set_count(part, expected, 0);
}

}  // namespace

FileDigest digest_of(const std::filesystem::path& file) {
  const OutgoingFile source(file);
  Xxh3 digest;
  std::string data;
  for (std::uint64_t at = 0; at < source.bytes(); at += data.size()) {
    source.read(at, data);
    digest.add(data);
  }
  return {source.bytes(), digest.digest()};
}

FileDigest digest_of(std::span<const std::byte> bytes) {
  return {bytes.size(), xxh3_128(bytes.data(), bytes.size())};
}

std::size_t size_of(Pieces pieces) {
  std::size_t size = 0;
  for (const std::string_view piece : pieces) size += piece.size();
  return size;
}

std::uint64_t chunk_checksum(Pieces pieces) {
  Xxh3 sum;
  for (const std::string_view piece : pieces) sum.add(piece);
  return sum.checksum();
}

std::uint64_t chunk_checksum(std::string_view data) { return chunk_checksum(Pieces(&data, 1)); }

std::filesystem::path IncomingFile::part_of(const std::filesystem::path& file, const FileDigest& expected) {
  return fmt::format("{}.{}{}", file.string(), expected.hexadecimal(), kPart);
}

std::uint64_t IncomingFile::received_of(const std::filesystem::path& file, const FileDigest& expected) {
  const std::filesystem::path part = part_of(file, expected);
  std::error_code unknown;
  if (!std::filesystem::exists(part, unknown)) return 0;
  try {
    return count_of(FileDescriptor(part.string(), O_RDONLY), expected).value_or(0);
  } catch (const Error&) {  // IncomingFile reports it
    return 0;
  }
}

void IncomingFile::retire(const std::filesystem::path& file) {
  if (std::filesystem::exists(file)) std::filesystem::rename(file, file.string() + kRetired);
}

bool IncomingFile::is_part(const std::filesystem::path& file) { return file.extension() == kPart; }

bool IncomingFile::is_retired(const std::filesystem::path& file) { return file.extension() == kRetired; }

void IncomingFile::make_part(const std::filesystem::path& file, const FileDigest& expected,
                             const std::string& sender) {
  const std::filesystem::path part = part_of(file, expected);
  std::filesystem::path retired;  // any of them
  for (const auto& entry : std::filesystem::directory_iterator(file.parent_path())) {
    const std::filesystem::path& other = entry.path();
    if (is_retired(other))
      retired = other;
    else if (is_part(other) && other != part && other.filename().string().starts_with(sender + "."))
      std::filesystem::remove(other);
  }
  if (retired.empty() || std::filesystem::exists(part)) return;
  try {
    FileDescriptor space(retired.string(), O_RDWR);
    empty(space, expected);
    std::filesystem::rename(retired, part);
  } catch (const Error&) {  // as on a full disk: the file needs a block for its count, and is one itself
    std::filesystem::remove(retired);
  }
}

IncomingFile::IncomingFile(std::filesystem::path file, const FileDigest& expected)
    : file_(std::move(file)),
      part_(part_of(file_, expected)),
      expected_(expected),
      descriptor_(part_.string(), O_RDWR | O_CREAT, 0600) {
  if (const auto count = count_of(descriptor_, expected))
    received_ = *count;
  else
    restart();
}

void IncomingFile::read_back() {
  std::string data;
  for (; digested_ < received_; digested_ += data.size()) {
    data.resize(std::min<std::uint64_t>(kChunkBytes, received_ - digested_));
    descriptor_.read_at(data.data(), data.size(), digested_);
    digest_.add(data);
  }
}

void IncomingFile::restart() {
  descriptor_.resize(0);  // its space must not be missing for what takes its place
  empty(descriptor_, expected_);
  received_ = digested_ = 0;
  digest_ = {};
}

void IncomingFile::append(std::uint64_t offset, Pieces pieces, std::uint64_t checksum,
                          const std::function<void(std::string_view)>& inspect) {
  const std::size_t size = size_of(pieces);
  require(size <= kChunkBytes, "a chunk of {} bytes; there may be {}", size, kChunkBytes);
  require(offset == received_, "a chunk at byte {} came, and byte {} was expected", offset, received_);
  require(size <= expected_.bytes - received_, "a chunk of {} bytes at byte {} of a file of {}", size, offset,
          expected_.bytes);
  read_back();
  Xxh3 chunk, whole = digest_;
  std::exception_ptr objection;
  for (const std::string_view piece : pieces) {  // all three while it is in the cache
    try {
      if (inspect && !objection) inspect(piece);
    } catch (...) {
      objection = std::current_exception();
    }
    chunk.add(piece);
    whole.add(piece);
  }
  require(chunk.checksum() == checksum, "the chunk at byte {} was damaged on its way", offset);
  if (objection) std::rethrow_exception(objection);
  descriptor_.write_at(pieces, offset);
  set_count(descriptor_, expected_, received_ + size);
  digest_ = whole;
  digested_ = received_ += size;
}

void IncomingFile::expect_all() const {
  require(received_ == expected_.bytes, "{}: {} of {} bytes came", file_.string(), received_,
          expected_.bytes);
}

void IncomingFile::sync() {
  expect_all();
  descriptor_.resize(expected_.bytes);
  descriptor_.sync();
}

void IncomingFile::finish() {
  expect_all();
  read_back();
  if (digest_.digest() != expected_.xxh3) {
    restart();
    fail("{}: the file that came does not have the announced digest; it must be sent again", file_.string());
  }
  descriptor_.resize(expected_.bytes);
  std::filesystem::rename(part_, file_);
}

OutgoingFile::OutgoingFile(const std::filesystem::path& file)
    : descriptor_(file.string(), O_RDONLY), bytes_(descriptor_.size()) {}

std::size_t OutgoingFile::chunk_bytes(std::uint64_t offset) const {
  return std::min<std::uint64_t>(kChunkBytes, bytes_ - std::min(offset, bytes_));
}

void OutgoingFile::read(std::uint64_t offset, std::string& data) const {
  data.resize(chunk_bytes(offset));
  descriptor_.read_at(data.data(), data.size(), offset);
}

std::string lacking_room(const std::filesystem::path& directory, double needed, double spare,
                         std::string_view what) {
  std::error_code unknown;
  const std::filesystem::space_info disk = std::filesystem::space(directory, unknown);
  if (unknown || disk.capacity == 0 || disk.capacity == static_cast<std::uintmax_t>(-1)) return "";
  const auto room = static_cast<double>(disk.available);
  if (room >= needed + spare) return "";
  constexpr double kMebi = 1 << 20;
  return fmt::format(
      "{}: there is room for {:.0f} MiB, and {:.0f} MiB are needed for {}, besides {:.0f} MiB that must stay "
      "free; make room",
      directory.string(), room / kMebi, needed / kMebi, what, spare / kMebi);
}

}  // namespace conclave
