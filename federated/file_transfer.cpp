#include "federated/file_transfer.h"

#include <fcntl.h>
#include <fmt/format.h>

#include <algorithm>

#include "core/error.h"

namespace conclave {
namespace {

constexpr std::uint64_t kUnit = 8;  // bytes: no number of an update is cut where a crash left a part

void start(XXH3_state_t* state) { XXH3_128bits_reset(state); }

std::array<std::uint8_t, 16> end(const XXH3_state_t* state) {
  XXH128_canonical_t canonical;
  XXH128_canonicalFromHash(&canonical, XXH3_128bits_digest(state));
  std::array<std::uint8_t, 16> digest;
  std::ranges::copy(canonical.digest, digest.begin());
  return digest;
}

}  // namespace

std::string FileDigest::hexadecimal() const {
  std::string text;
  for (const std::uint8_t byte : xxh3) text += fmt::format("{:02x}", byte);
  return text;
}

FileDigest digest_of(const std::filesystem::path& file) {
  const OutgoingFile source(file);
  const std::unique_ptr<XXH3_state_t, decltype(&XXH3_freeState)> state(XXH3_createState(), &XXH3_freeState);
  start(state.get());
  std::string data;
  for (std::uint64_t at = 0; at < source.bytes(); at += data.size()) {
    source.read(at, data);
    XXH3_128bits_update(state.get(), data.data(), data.size());
  }
  return {source.bytes(), end(state.get())};
}

FileDigest digest_of(std::span<const std::byte> bytes) {
  const std::unique_ptr<XXH3_state_t, decltype(&XXH3_freeState)> state(XXH3_createState(), &XXH3_freeState);
  start(state.get());
  XXH3_128bits_update(state.get(), bytes.data(), bytes.size());
  return {bytes.size(), end(state.get())};
}

std::uint64_t chunk_checksum(std::string_view data) { return XXH3_64bits(data.data(), data.size()); }

std::filesystem::path IncomingFile::part_of(const std::filesystem::path& file, const FileDigest& expected) {
  return fmt::format("{}.{}.part", file.string(), expected.hexadecimal());
}

IncomingFile::IncomingFile(std::filesystem::path file, const FileDigest& expected)
    : file_(std::move(file)),
      part_(part_of(file_, expected)),
      expected_(expected),
      digest_(XXH3_createState()) {
  start(digest_.get());
  std::error_code missing;
  std::uint64_t there = std::filesystem::file_size(part_, missing);
  descriptor_.emplace(part_.string(), O_RDWR | O_CREAT, 0600);
  if (missing) return;
  if (there > expected.bytes) {
    restart();
    return;
  }
  if (there % kUnit != 0) descriptor_->resize(there -= there % kUnit);
  std::string data;
  const OutgoingFile so_far(part_);
  for (; received_ < there; received_ += data.size()) {
    so_far.read(received_, data);
    XXH3_128bits_update(digest_.get(), data.data(), data.size());
  }
}

void IncomingFile::restart() {
  descriptor_->resize(0);
  received_ = 0;
  start(digest_.get());
}

void IncomingFile::append(std::uint64_t offset, std::string_view data, std::uint64_t checksum) {
  require(offset == received_, "a chunk at byte {} came where byte {} was to come", offset, received_);
  require(data.size() <= expected_.bytes - received_, "a chunk of {} bytes at byte {} of a file of {}",
          data.size(), offset, expected_.bytes);
  require(chunk_checksum(data) == checksum, "the chunk at byte {} was damaged on its way", offset);
  descriptor_->write_at(data.data(), data.size(), offset);
  XXH3_128bits_update(digest_.get(), data.data(), data.size());
  received_ += data.size();
}

void IncomingFile::finish() {
  require(received_ == expected_.bytes, "{}: {} of {} bytes came", file_.string(), received_,
          expected_.bytes);
  if (end(digest_.get()) != expected_.xxh3) {
    restart();
    fail("{}: what came has another digest than was said; it must come again", file_.string());
  }
  std::filesystem::rename(part_, file_);
}

OutgoingFile::OutgoingFile(const std::filesystem::path& file)
    : descriptor_(file.string(), O_RDONLY), bytes_(descriptor_.size()) {}

void OutgoingFile::read(std::uint64_t offset, std::string& data) const {
  data.resize(std::min<std::uint64_t>(kChunkBytes, bytes_ - std::min(offset, bytes_)));
  descriptor_.read_at(data.data(), data.size(), offset);
}

}  // namespace conclave
