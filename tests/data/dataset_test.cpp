#include "data/dataset.h"

#include <catch2/catch.hpp>

#include "data/tokenizer.h"
#include "tests/data/temporary_directory.h"

using namespace conclave;
using Catch::Matchers::Contains;

namespace {

std::vector<std::uint8_t> copy(std::span<const std::uint8_t> image) { return {image.begin(), image.end()}; }

// An example with a text, one with an image, and one with both; the last two share an image.
ImageSplit some_of_each() {
  ImageSplit split{{{"a text about it", 1}, {"", 2}, {"another text", 3, true}}, {}};
  split.images.append({{1, 2, 1}, {7, 8}}, "file");
  split.images.rows = {-1, 0, 0};
  return split;
}

}  // namespace

TEST_CASE("images of one shape are packed into one block", "[data]") {
  ImageColumn images;
  CHECK(images.size() == 0);
  CHECK(images.of(3).empty());
  images.append({{1, 2, 3}, {1, 2, 3, 4, 5, 6}}, "a.png");
  images.append({{1, 2, 3}, {7, 8, 9, 10, 11, 12}}, "b.png");
  CHECK(images.size() == 2);
  CHECK(images.rows == std::vector<std::int32_t>{0, 1});
  CHECK(copy(images.image(1)) == std::vector<std::uint8_t>{7, 8, 9, 10, 11, 12});
  CHECK(copy(images.of(0)) == std::vector<std::uint8_t>{1, 2, 3, 4, 5, 6});
  CHECK_THAT(error_of([&] {
               images.append({{2, 1, 3}, std::vector<std::uint8_t>(6)}, "c.png");
             }),
             Contains("c.png: image 2 is 2 x 1 pixels of 3 channels, those before it are 1 x 2 of 3"));
  CHECK_THAT(error_of([&] { images.append({{1, 2, 1}, {0, 0}}, "d.png"); }), Contains("d.png: image 2 is"));
  CHECK(images.size() == 2);
}

TEST_CASE("an example may lack its text or its image", "[data]") {
  const Tokenizer tokenizer = Tokenizer::train(some_of_each().examples, 100, "");
  const TokenizedSplit split = tokenizer.encode_split(some_of_each(), 4);
  REQUIRE(split.size() == 3);
  CHECK(split.length(0) == 4);
  CHECK(split.length(1) == 0);
  CHECK(split.length(2) > 0);
  CHECK(split.labels == std::vector<std::int32_t>{1, 2, 3});
  CHECK(split.in_domain == std::vector<std::int32_t>{0, 0, 1});
  CHECK(split.images.of(0).empty());
  CHECK(copy(split.images.of(1)) == std::vector<std::uint8_t>{7, 8});
  CHECK(copy(split.images.of(2)) == std::vector<std::uint8_t>{7, 8});
}

TEST_CASE("a split's checksum depends on its examples' lengths, labels and order", "[data]") {
  TokenizedSplit split;
  split.offsets = {0, 1, 3};
  split.labels = {4, 5};
  const std::uint64_t checksum = checksum_of(split);
  CHECK(checksum_of(split) == checksum);
  split.labels = {5, 4};
  CHECK(checksum_of(split) != checksum);
  split.labels = {4, 5};
  split.offsets = {0, 2, 3};
  CHECK(checksum_of(split) != checksum);
  split.offsets = {0, 1, 3};
  CHECK(checksum_of(split) == checksum);
  split.offsets.push_back(3), split.labels.push_back(0);
  CHECK(checksum_of(split) != checksum);
}

TEST_CASE("images without texts need no tokenizer", "[data]") {
  const TokenizedSplit split = without_texts(some_of_each());
  REQUIRE(split.size() == 3);
  for (int i = 0; i < 3; ++i) CHECK(split.sequence(i).empty());
  CHECK(split.labels == std::vector<std::int32_t>{1, 2, 3});
  CHECK(split.in_domain == std::vector<std::int32_t>{0, 0, 1});
  CHECK(copy(split.images.of(1)) == std::vector<std::uint8_t>{7, 8});
}
