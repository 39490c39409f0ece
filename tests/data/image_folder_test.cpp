#include "data/image_folder.h"

#include <catch2/catch.hpp>
#include <filesystem>

#include "core/file.h"
#include "data/stable_bucket.h"
#include "tests/data/temporary_directory.h"
#include "tests/fixtures/image_fixture.h"

using namespace conclave;
using Catch::Matchers::Contains;
using Catch::Matchers::EndsWith;
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
  CHECK(none.warnings() ==
        std::vector<std::string>{folder.path() +
                                 ": left out: 1 file that is neither PNG nor JPEG by name (cat/notes.txt)"});
}

TEST_CASE("files that are left out of a folder of images give warnings", "[data]") {
  const TemporaryDirectory folder;
  for (int i = 0; i < 9; ++i) write(folder, fmt::format("cat/{}.png", i), picture("colour.png"));
  BadInputs none;
  CHECK(read_image_folder(folder.path(), 4, none).train.examples.size() > 1);
  CHECK(none.warnings().empty());
  for (int i = 0; i < 6; ++i) write(folder, fmt::format("cat/{}.gif", i), "GIF89a");
  write(folder, "cat/old/1.png", picture("colour.png"));
  write(folder, "cat/older/1.png", picture("colour.png"));
  write(folder, "cover.jpg", picture("grey.jpg"));
  read_image_folder(folder.path(), 4, none);
  CHECK(
      none.warnings() ==
      std::vector<std::string>{
          folder.path() +
          ": left out: 6 files that are neither PNG nor JPEG by name (cat/0.gif, cat/1.gif, cat/2.gif, "
          "cat/3.gif, cat/4.gif and 1 more), and 2 folders within a class (cat/old, cat/older), and 1 image "
          "outside of the classes' folders (cover.jpg)"});
}

TEST_CASE("classes without a training image give a warning", "[data]") {
  const TemporaryDirectory folder;
  std::vector<std::string> held;
  for (int i = 0; held.size() < 2; ++i)
    if (const auto name = fmt::format("dog/{}.png", i); bucket_of(name, 10) >= 8) held.push_back(name);
  for (const std::string& name : held) write(folder, name, picture("colour.png"));
  for (int i = 0; i < 9; ++i) write(folder, fmt::format("cat/{}.png", i), picture("colour.png"));
  BadInputs none, bad(true);
  CHECK(read_image_folder(folder.path(), 4, none).class_names.size() == 2);
  REQUIRE(none.warnings().size() == 1);
  CHECK_THAT(none.warnings()[0], StartsWith(folder.path() + ": 1 of 2 classes have no training image") &&
                                     Contains("sort the images into folders train") && EndsWith(": dog"));
  write(folder, "split/train/cat/1.png", picture("colour.png"));
  write(folder, "split/train/dog/1.png", "no image");
  read_image_folder(folder.path() + "/split", 4, bad);
  CHECK(bad.warnings() ==
        std::vector<std::string>{folder.path() + "/split: 1 of 2 classes have no training image: dog"});
}

TEST_CASE("a folder may have its splits as folders", "[data]") {
  const auto validation = GENERATE(as<std::string>(), "val", "valid", "validation", "dev");
  const TemporaryDirectory folder;
  for (const std::string& name :
       {std::string("train/cat/1.png"), std::string("train/cat/2.png"), std::string("train/train/1.png"),
        validation + "/train/1.png", std::string("extra/cat/1.png"), std::string("Test/cat/1.png")})
    write(folder, name, picture("colour.png"));
  write(folder, validation + "/train/1.bmp", "BM");
  BadInputs none;
  const ImageDataset data = read_image_folder(folder.path(), 4, none);
  CHECK(data.class_names == std::vector<std::string>{"cat", "train"});
  CHECK(data.train.examples.size() == 3);
  REQUIRE(data.validation.examples.size() == 1);
  CHECK(data.validation.examples[0].label == 1);
  CHECK(data.test.examples.empty());
  CHECK(none.warnings() ==
        std::vector<std::string>{
            folder.path() + ": left out: 1 file that is neither PNG nor JPEG by name (" + validation +
            "/train/1.bmp), and 2 folders beside train whose names are no split's (Test, "
            "extra)"});
  // The folder train itself is a folder of classes.
  CHECK(read_image_folder(folder.path() + "/train", 4, none).class_names.size() == 2);

  write(folder, "test/cow/1.png", picture("colour.png"));
  CHECK(error_of([&] { read_image_folder(folder.path(), 4, none); }) ==
        folder.path() + "/test/cow: a class without training images; there are: cat, train");
}

TEST_CASE("errors in a folder of images are reported", "[data]") {
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
