// Files whose chunks are in several pieces, as a connection delivers them.
#include "federated/file_transfer.h"

#include <sys/stat.h>
#include <xxhash.h>

#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>
#include <memory>

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
  const std::uint64_t half = std::uint64_t{1} << 39;
  const FileDigest expected{.bytes = 2 * half, .xxh3 = {}};
  CHECK(IncomingFile::received_of(path, expected) == 0);
  const std::string part = folder.write(IncomingFile::part_of("file", expected).string(), "");
  std::filesystem::resize_file(part, expected.bytes);  // holes, which take minutes to read
  std::ofstream(part, std::ios::app | std::ios::binary)
      .write(reinterpret_cast<const char*>(&half), sizeof half);
  for (int asked = 0; asked < 100; ++asked) CHECK(IncomingFile(path, expected).received() == half);
  CHECK(IncomingFile::received_of(path, expected) == half);
}

TEST_CASE("file transfer: a part that says more than there can be begins anew") {
  const TemporaryDirectory folder;
  const std::string path = folder.path() + "/file", whole = text(1000);
  const FileDigest expected = digest_of_text(whole);
  const std::uint64_t too_much = 1001;
  const std::string count(reinterpret_cast<const char*>(&too_much), sizeof too_much);
  const std::uint64_t in_a_number = 3;
  const std::string cut(reinterpret_cast<const char*>(&in_a_number), sizeof in_a_number);
  // The file and a count; less than the file; more than both.
  for (const std::string& written : {whole + count, whole + cut, whole.substr(1), whole + count + "?"}) {
    folder.write(IncomingFile::part_of("file", expected).string(), written);
    IncomingFile file(path, expected);
    CHECK(file.received() == 0);
    CHECK(std::filesystem::file_size(IncomingFile::part_of(path, expected)) == 1008);
    CHECK_THROWS_WITH(file.finish(), Contains("0 of 1000 bytes came"));
    CHECK_THROWS_WITH(file.sync(), Contains("0 of 1000 bytes came"));
    const std::string_view all = whole;
    file.append(0, std::span(&all, 1), chunk_checksum(all));
    file.finish();
    CHECK(read_file(path, "") == whole);
  }
}

TEST_CASE("file transfer: a file that came, but has not got its name, need not be sent again") {
  const TemporaryDirectory folder;
  const std::string path = folder.path() + "/file", whole = text(1000);
  const FileDigest expected = digest_of_text(whole);
  const std::string_view all = whole;
  {
    IncomingFile file(path, expected);
    file.append(0, std::span(&all, 1), chunk_checksum(all));
    file.sync();
  }
  IncomingFile again(path, expected);
  CHECK(again.received() == whole.size());
  again.finish();
  CHECK(read_file(path, "") == whole);

  // But what is there may be damaged.
  folder.write(IncomingFile::part_of("file", expected).string(), whole.substr(1) + "?");
  IncomingFile damaged(path, expected);
  CHECK_THROWS_WITH(damaged.finish(), Contains("must be sent again"));
  CHECK(damaged.received() == 0);
  CHECK(IncomingFile(path, expected).received() == 0);
  damaged.append(0, std::span(&all, 1), chunk_checksum(all));
  damaged.finish();
  CHECK(read_file(path, "") == whole);
}

TEST_CASE("file transfer: a retired file is written over") {
  const TemporaryDirectory folder;
  const std::string first = folder.path() + "/north.0.f32", second = folder.path() + "/north.1.f32";
  // Of the same length, shorter, longer.
  const std::string whole = GENERATE(text(1000), text(700), text(1300));
  const FileDigest expected = digest_of_text(whole);
  folder.write("north.0.f32", std::string(1000, 'x'));
  folder.write("north.0.f32.other.part", "x");
  folder.write("northern.0.f32.other.part", "another site's");
  struct stat before {};
  REQUIRE(stat(first.c_str(), &before) == 0);
  IncomingFile::retire(first);
  IncomingFile::retire(first);  // it has gone
  CHECK_FALSE(std::filesystem::exists(first));
  const auto begin = [&] {
    IncomingFile::make_part(second, expected, "north");
    return std::make_unique<IncomingFile>(second, expected);
  };
  const std::string_view head = std::string_view(whole).substr(0, 400),
                         rest = std::string_view(whole).substr(400);
  auto file = begin();
  CHECK(file->received() == 0);
  file->append(0, std::span(&head, 1), chunk_checksum(head));
  folder.write("south.2.f32.retired", "one more");
  file = begin();  // after an interruption
  CHECK(file->received() == 400);
  CHECK(std::filesystem::exists(folder.path() + "/south.2.f32.retired"));
  CHECK_FALSE(std::filesystem::exists(folder.path() + "/north.0.f32.other.part"));
  CHECK(std::filesystem::exists(folder.path() + "/northern.0.f32.other.part"));
  file->append(400, std::span(&rest, 1), chunk_checksum(rest));
  file->finish();
  CHECK(read_file(second, "") == whole);
  struct stat after {};
  REQUIRE(stat(second.c_str(), &after) == 0);
  CHECK(after.st_ino == before.st_ino);
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
  CHECK(IncomingFile::received_of(path, digest_of_text(whole)) == 0);
  file.append(0, pieces, chunk_checksum(pieces));
  file.finish();
  CHECK(read_file(path, "") == whole);
}
