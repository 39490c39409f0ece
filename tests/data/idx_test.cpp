#include "data/idx.h"

#include <catch2/catch.hpp>

#include "tests/data/gzip.h"
#include "tests/data/temporary_directory.h"

using namespace conclave;
using Catch::Matchers::Contains;
using Catch::Matchers::StartsWith;

namespace {

using std::string_literals::operator""s;

const std::string kArray = "\0\0\x08\x03\0\0\0\x02\0\0\0\x01\0\0\0\x03"s + "abcdef";  // 2 x 1 x 3

std::string idx_error(const std::string& bytes) {
  return error_of([&] { parse_idx(bytes, "file"); });
}

}  // namespace

TEST_CASE("an idx file is read plain or compressed by gzip", "[data]") {
  const bool packed = GENERATE(false, true);
  const IdxArray array = parse_idx(packed ? gzip(kArray) : kArray, "file");
  CHECK(array.extents == std::vector<std::int64_t>{2, 1, 3});
  CHECK(array.values == std::vector<std::uint8_t>{'a', 'b', 'c', 'd', 'e', 'f'});
  const std::string labels = "\0\0\x08\x01\0\0\0\x02\x05\xFF"s;
  CHECK(parse_idx(packed ? gzip(labels) : labels, "file").values == std::vector<std::uint8_t>{5, 255});
}

TEST_CASE("a truncated idx file is refused at any length", "[data]") {
  for (const std::string& whole : {kArray, gzip(kArray)})
    for (std::size_t size = 0; size < whole.size(); ++size)
      REQUIRE_THAT(idx_error(whole.substr(0, size)), StartsWith("file: "));
  CHECK_THAT(idx_error(kArray.substr(0, 9)), Contains("ends at byte 9, within the header"));
  CHECK_THAT(idx_error(gzip(kArray.substr(0, 9))), Contains("(unpacked, 9), within the header"));
}

TEST_CASE("an idx file that is longer than it says is refused", "[data]") {
  CHECK_THAT(idx_error(kArray + "g"), Contains("goes on at byte 22, after all of 2 x 1 x 3 values"));
  CHECK_THAT(idx_error(gzip(kArray + "g")), Contains("(unpacked, 22), after all of"));
  CHECK_THAT(idx_error(gzip(kArray) + "g"), Contains("goes on at byte"));
}

TEST_CASE("an idx file of another kind is refused", "[data]") {
  CHECK_THAT(idx_error("\x89PNG, say"), Contains("not an idx file"));
  CHECK_THAT(idx_error("\0\0\x0D\x01\0\0\0\x01"s), Contains("type 0x0D") && Contains("unsigned bytes, 0x08"));
  CHECK_THAT(idx_error("\0\0\x08\x04\0\0\0\x01"s), Contains("4 extents"));
  CHECK_THAT(idx_error("\0\0\x08\0\0\0\0\x01"s), Contains("0 extents"));
}

TEST_CASE("idx extents are checked against the file's size before memory is allocated", "[data]") {
  const std::string huge = "\0\0\x08\x03\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF"s;
  CHECK_THAT(idx_error(huge), Contains("extents 4294967295 cannot be right for a file of 16 bytes"));
  CHECK_THAT(idx_error(gzip(huge)), Contains("extents 4294967295 cannot be right"));
  CHECK_THAT(idx_error("\0\0\x08\x02\0\0\0\x08\0\0\0\x08"s),
             Contains("8 x 8 cannot be right for a file of 12"));
  CHECK_THAT(idx_error("\0\0\x08\x01\0\0\0\0"s), Contains("extents 0 cannot be right"));
}

TEST_CASE("a gzip file with a wrong checksum is refused", "[data]") {
  std::string packed = gzip(kArray);
  packed[packed.size() - 6] ^= 1;
  CHECK_THAT(idx_error(packed), Contains("gzip finds it damaged") && Contains("incorrect data check"));
}
