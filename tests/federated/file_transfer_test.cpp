// Files whose chunks are in several pieces, as a connection delivers them.
#include "federated/file_transfer.h"

#include <xxhash.h>

#include <catch2/catch.hpp>

#include "core/file.h"
#include "tests/data/temporary_directory.h"

using namespace conclave;
using Catch::Matchers::Contains;

namespace {

std::string text(std::size_t size) {
  std::string text(size, '\0');
  for (std::size_t i = 0; i < size; ++i) text[i] = static_cast<char>(i * 31 + i / 251);
  return text;
}

// Pieces of 0, 1, 2, ... bytes.
std::vector<std::string_view> cut(std::string_view text) {
  std::vector<std::string_view> pieces;
  for (std::size_t size = 0; !text.empty(); ++size) {
    pieces.push_back(text.substr(0, size));
    text.remove_prefix(pieces.back().size());
  }
  return pieces;
}

FileDigest digest_of_text(const std::string& text) { return digest_of(std::as_bytes(std::span(text))); }

}  // namespace

TEST_CASE("file transfer: the checksum of pieces is the checksum of the whole") {
  for (const std::size_t size : {std::size_t{0}, std::size_t{5}, std::size_t{240}, std::size_t{100'000}}) {
    const std::string whole = text(size);
    const auto pieces = cut(whole);
    CHECK(chunk_checksum(pieces) == XXH3_64bits(whole.data(), whole.size()));
    CHECK(chunk_checksum(whole) == chunk_checksum(pieces));
    XXH128_canonical_t canonical;
    XXH128_canonicalFromHash(&canonical, XXH3_128bits(whole.data(), whole.size()));
    CHECK(std::ranges::equal(digest_of_text(whole).xxh3, canonical.digest));
  }
}

TEST_CASE("file transfer: more pieces than one system call writes become a file") {
  const TemporaryDirectory folder;
  const std::string whole = text(2'000'000);
  const auto pieces = cut(whole);
  REQUIRE(pieces.size() > 1024);
  const std::string path = folder.path() + "/file";
  IncomingFile file(path, digest_of_text(whole));
  file.append(0, std::span(pieces).first(1500), chunk_checksum(std::span(pieces).first(1500)));
  const auto rest = std::span(pieces).subspan(1500);
  file.append(file.received(), rest, chunk_checksum(rest));
  file.finish();
  CHECK(read_file(path, "") == whole);
  CHECK(digest_of(path) == digest_of_text(whole));
}

TEST_CASE("file transfer: how much has arrived is known without reading it") {
  const TemporaryDirectory folder;
  const std::string path = folder.path() + "/file";
  const FileDigest expected{.bytes = std::uint64_t{1} << 40, .xxh3 = {}};
  const std::string part = folder.write(IncomingFile::part_of("file", expected).string(), "");
  std::filesystem::resize_file(part, std::uint64_t{1} << 39);  // holes, which take minutes to read
  for (int asked = 0; asked < 100; ++asked)
    CHECK(IncomingFile(path, expected).received() == std::uint64_t{1} << 39);
}

TEST_CASE("file transfer: a part on disk is read back before it is continued") {
  const TemporaryDirectory folder;
  const std::string path = folder.path() + "/file", whole = text(100'000);
  const FileDigest expected = digest_of_text(whole);
  const std::string_view first(whole.data(), 60'000), rest(whole.data() + 60'000, 40'000);
  IncomingFile(path, expected).append(0, std::span(&first, 1), chunk_checksum(first));
  IncomingFile(path, expected).append(60'000, std::span(&rest, 1), chunk_checksum(rest));
  IncomingFile(path, expected).finish();
  CHECK(read_file(path, "") == whole);
}

TEST_CASE("file transfer: nothing of a refused chunk is stored") {
  const TemporaryDirectory folder;
  const std::string whole = text(1000);
  const auto pieces = cut(whole);
  const std::filesystem::path path = folder.path() + "/file";
  IncomingFile file(path, digest_of_text(whole));
  CHECK_THROWS_WITH(file.append(0, pieces, chunk_checksum(pieces) ^ 1), Contains("damaged"));
  std::size_t seen = 0;
  const auto inspect = [&](std::string_view piece) {
    seen += piece.size();
    if (seen == whole.size()) throw Error("not this one");
  };
  CHECK_THROWS_WITH(file.append(0, pieces, chunk_checksum(pieces), inspect), Contains("not this one"));
  CHECK(seen == whole.size());
  // Damage may also make the content invalid; then only the damage is reported.
  const auto object = [](std::string_view) { throw Error("not this one"); };
  CHECK_THROWS_WITH(file.append(0, pieces, chunk_checksum(pieces) ^ 1, object), Contains("damaged"));
  CHECK(file.received() == 0);
  CHECK(std::filesystem::file_size(IncomingFile::part_of(path, digest_of_text(whole))) == 0);
  file.append(0, pieces, chunk_checksum(pieces));
  file.finish();
  CHECK(read_file(path, "") == whole);
}
