#include "federated/file_transfer.h"

#include <fcntl.h>
#include <fmt/format.h>

#include <algorithm>
#include <exception>

#include "core/error.h"

namespace conclave {
namespace {

constexpr std::uint64_t kUnit = 8;  // bytes; the length of a part is rounded down to this after a crash, so
                                    // that no number of an update is cut

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
  return fmt::format("{}.{}.part", file.string(), expected.hexadecimal());
}

void IncomingFile::remove_other_parts(const std::filesystem::path& directory, const std::string& sender,
                                      const std::filesystem::path& kept) {
  for (const auto& entry : std::filesystem::directory_iterator(directory))
    if (entry.path().filename().string().starts_with(sender + ".") && entry.path().extension() == ".part" &&
        entry.path() != kept)
      std::filesystem::remove(entry.path());
}

IncomingFile::IncomingFile(std::filesystem::path file, const FileDigest& expected)
    : file_(std::move(file)), part_(part_of(file_, expected)), expected_(expected) {
  std::error_code missing;
  std::uint64_t there = std::filesystem::file_size(part_, missing);
  descriptor_.emplace(part_.string(), O_RDWR | O_CREAT, 0600);
  if (missing) return;
  if (there > expected.bytes) {
    restart();
    return;
  }
  if (there % kUnit != 0) descriptor_->resize(there -= there % kUnit);
  received_ = there;
}

void IncomingFile::read_back() {
  std::string data;
  for (; digested_ < received_; digested_ += data.size()) {
    data.resize(std::min<std::uint64_t>(kChunkBytes, received_ - digested_));
    descriptor_->read_at(data.data(), data.size(), digested_);
    digest_.add(data);
  }
}

void IncomingFile::restart() {
  descriptor_->resize(0);
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
  descriptor_->write_at(pieces, offset);
  digest_ = whole;
  digested_ = received_ += size;
}

void IncomingFile::finish() {
  require(received_ == expected_.bytes, "{}: {} of {} bytes came", file_.string(), received_,
          expected_.bytes);
  read_back();
  if (digest_.digest() != expected_.xxh3) {
    restart();
    fail("{}: the file that came does not have the announced digest; it must be sent again", file_.string());
  }
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
