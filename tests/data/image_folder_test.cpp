#include "data/image_folder.h"

#include <catch2/catch.hpp>
#include <filesystem>

#include "data/file.h"
#include "tests/data/temporary_directory.h"
#include "tests/fixtures/image_fixture.h"

using namespace conclave;
using Catch::Matchers::Contains;
using Catch::Matchers::StartsWith;

namespace {

std::string picture(const std::string& name) { return read_file(CONCLAVE_FIXTURES "/images/" + name, ""); }

void write(const TemporaryDirectory& folder, const std::string& name, std::string_view content) {
  std::filesystem::create_directories(std::filesystem::path(folder.path() + "/" + name).parent_path());
  folder.write(name, content);
}

}  // namespace

TEST_CASE("a folder of images has its classes in order and its splits by its paths", "[data]") {
  const TemporaryDirectory folder;
  for (int i = 0; i < 40; ++i)
    write(folder, fmt::format("{}/{}.{}", i % 2 == 0 ? "dog" : "cat", i, i % 3 == 0 ? "PNG" : "jpeg"),
          picture(i % 3 == 0 ? "alpha.png" : "grey.jpg"));
  write(folder, "cat/notes.txt", "no image");
  write(folder, "cat/.hidden.png", "no image");
  write(folder, "readme.md", "");
  BadInputs none;
  const ImageDataset data = read_image_folder(folder.path(), 4, none);
  CHECK(data.class_names == std::vector<std::string>{"cat", "dog"});
  CHECK(data.train.images.shape == ImageShape{4, 4, 3});
  CHECK(data.train.images.size() == static_cast<std::int64_t>(data.train.examples.size()));
  CHECK(data.train.examples.size() + data.validation.examples.size() + data.test.examples.size() == 40);
  // zlib.crc32(b"cat/9.PNG") % 10 and so on
  CHECK(data.validation.examples.size() == 3);
  CHECK(data.test.examples.size() == 5);
  CHECK(std::ranges::is_sorted(data.train.examples, {}, &TextExample::label));
}

TEST_CASE("a folder may have its splits as folders", "[data]") {
  const TemporaryDirectory folder;
  for (const char* name : {"train/cat/1.png", "train/cat/2.png", "train/train/1.png", "val/train/1.png"})
    write(folder, name, picture("colour.png"));
  BadInputs none;
  const ImageDataset data = read_image_folder(folder.path(), 4, none);
  CHECK(data.class_names == std::vector<std::string>{"cat", "train"});
  CHECK(data.train.examples.size() == 3);
  REQUIRE(data.validation.examples.size() == 1);
  CHECK(data.validation.examples[0].label == 1);
  CHECK(data.test.examples.empty());
  // The inner one is of classes.
  CHECK(read_image_folder(folder.path() + "/train", 4, none).class_names.size() == 2);

  write(folder, "test/cow/1.png", picture("colour.png"));
  CHECK(error_of([&] { read_image_folder(folder.path(), 4, none); }) ==
        folder.path() + "/test/cow: a class without training images; there are: cat, train");
}

TEST_CASE("what is wrong with a folder of images is said", "[data]") {
  const TemporaryDirectory folder;
  BadInputs none, bad(true);
  const auto error = [&](BadInputs& inputs) {
    return error_of([&] { read_image_folder(folder.path() + "/data", 4, inputs); });
  };
  CHECK_THAT(error(none), StartsWith(folder.path() + "/data: cannot be listed"));
  write(folder, "data/1.png", picture("colour.png"));
  CHECK_THAT(error(none), Contains("no folder of images for each class"));
  std::filesystem::create_directory(folder.path() + "/data/cat");
  CHECK_THAT(error(none), StartsWith(folder.path() + "/data/cat: no image"));
  write(folder, "data/cat/1.png", picture("colour.png").substr(0, 60));
  CHECK_THAT(error(none), StartsWith(folder.path() + "/data/cat/1.png: "));
  CHECK_THAT(error(bad), Contains("no image to train on"));
  write(folder, "data/cat/2.png", picture("colour.png"));
  CHECK(error(bad) == "");
  CHECK(bad.count() == 2);
  CHECK_THAT(bad.first(), StartsWith(folder.path() + "/data/cat/1.png: "));
  write(folder, "data/caf\xE9/1.png", picture("colour.png"));
  CHECK_THAT(error(bad), StartsWith(folder.path() + "/data/caf\xE9: ") && Contains("is not UTF-8"));
}
