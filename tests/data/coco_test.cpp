#include "data/coco.h"

#include <catch2/catch.hpp>
#include <filesystem>

#include "core/file.h"
#include "tests/data/temporary_directory.h"

using namespace conclave;
using Catch::Matchers::Contains;
using Catch::Matchers::StartsWith;

namespace {

const std::string kCategories =
    R"("categories": [{"id": 18, "name": "dog", "supercategory": "animal"},
                      {"id": 1, "name": "person", "supercategory": "person"},
                      {"id": 17, "name": "cat", "supercategory": "animal"}])";

// Not in order, and with fields of COCO that are not read.
const std::string kInstances = R"({"info": {"year": 2017, "list": [1, [2]]},
"annotations": [
  {"id": 1, "image_id": 22, "category_id": 17, "area": 30.5, "iscrowd": 0, "bbox": [1, 2, 3, 4],
   "segmentation": [[1.5, 2.5, 3, 4], [5, 6]]},
  {"id": 2, "image_id": 22, "category_id": 1, "area": 20, "segmentation": {"size": [5, 6], "counts": [7]}},
  {"id": 3, "image_id": 22, "category_id": 1, "area": 20},
  {"id": 4, "image_id": 9, "category_id": 18, "area": 5},
  {"id": 5, "image_id": 9, "category_id": 17, "area": 5}],
"images": [{"id": 22, "file_name": "b.png", "width": 5}, {"id": 9, "file_name": "a.png"},
           {"id": 30, "file_name": "unmarked.png"}],
)" + kCategories + "}";

const std::string kCaptions = R"({"images": [{"id": 9}, {"id": 22}, {"id": 30}], "annotations": [
  {"id": 7, "image_id": 22, "caption": "A man."}, {"id": 6, "image_id": 22, "caption": "His cat."},
  {"id": 5, "image_id": 30, "caption": "Nothing."}]})";

std::string coco_error(const std::string& content) {
  return error_of([&] { parse_coco_instances(content, "file"); });
}

std::string instances(const std::string& images, const std::string& annotations) {
  return "{\"images\": [" + images + "], \"annotations\": [" + annotations + "], " + kCategories + "}";
}

void write_coco(const TemporaryDirectory& folder, const std::string& year) {
  std::filesystem::create_directory(folder.path() + "/annotations");
  const std::string picture = read_file(CONCLAVE_FIXTURES "/images/colour.png", "");
  for (const std::string& part : {"train" + year, "val" + year}) {
    std::filesystem::create_directory(folder.path() + "/" + part);
    folder.write("annotations/instances_" + part + ".json", kInstances);
    folder.write("annotations/captions_" + part + ".json", kCaptions);
    for (const char* name : {"/a.png", "/b.png"}) folder.write(part + name, picture);
  }
}

}  // namespace

TEST_CASE("the class of a COCO image is the category with the largest area", "[data]") {
  const CocoInstances found = parse_coco_instances(kInstances, "file");
  REQUIRE(found.categories.size() == 3);
  CHECK(found.categories[0].name == "person");
  CHECK(found.categories[2].supercategory == "animal");
  REQUIRE(found.images.size() == 3);
  CHECK(found.images[0].file == "a.png");
  CHECK(found.images[0].category == 1);   // cat and dog have the same area; the cat's id is smaller
  CHECK(found.images[1].category == 0);   // the person has twice an area of 20
  CHECK(found.images[2].category == -1);  // no annotation
  const auto captions = parse_coco_captions(kCaptions, "file");
  CHECK(captions.at(9).empty());
  CHECK(captions.at(22) == std::vector<std::string>{"A man.", "His cat."});
}

TEST_CASE("captions of an image of COCO are examples that share it", "[data]") {
  const auto year = GENERATE(as<std::string>(), "2017", "2014");
  const TemporaryDirectory folder;
  write_coco(folder, year);
  BadInputs none;
  const ImageDataset data = read_coco({.directory = folder.path(), .side = 3}, none);
  CHECK(data.class_names == std::vector<std::string>{"person", "cat", "dog"});
  CHECK(data.validation.examples.empty());
  for (const ImageSplit* split : {&data.train, &data.test}) {
    REQUIRE(split->examples.size() == 3);
    CHECK(split->examples[0].text.empty());
    CHECK(split->examples[0].label == 1);
    CHECK(split->examples[2].text == "His cat.");
    CHECK(split->examples[2].captions == std::vector<std::string>{"His cat."});
    CHECK(split->examples[2].label == 0);
    CHECK(split->images.shape == ImageShape{3, 3, 3});
    CHECK(split->images.rows == std::vector<std::int32_t>{0, 1, 1});
    CHECK(split->images.size() == 2);
  }
  const ImageDataset images =
      read_coco({.directory = folder.path(), .side = 3, .texts = false, .supercategories = true}, none);
  CHECK(images.class_names == std::vector<std::string>{"person", "animal"});
  CHECK(images.train.images.rows == std::vector<std::int32_t>{0, 1});
  CHECK(images.train.examples.size() == 2);
  CHECK(images.train.examples[1].captions.empty());

  // With captions as targets and images as the only input, each image is one example.
  const ImageDataset shown =
      read_coco({.directory = folder.path(), .side = 3, .texts = false, .captions = true}, none);
  for (const ImageSplit* split : {&shown.train, &shown.test}) {
    REQUIRE(split->examples.size() == 2);
    CHECK(split->images.rows == std::vector<std::int32_t>{0, 1});
    CHECK(split->examples[0].captions.empty());
    CHECK(split->examples[1].text.empty());
    CHECK(split->examples[1].captions == std::vector<std::string>{"A man.", "His cat."});
  }

  std::filesystem::remove_all(folder.path() + "/train" + year);
  const ImageDataset texts = read_coco({.directory = folder.path(), .images = false}, none);
  CHECK(texts.train.examples.size() == 2);
  CHECK(texts.train.images.size() == 0);
}

TEST_CASE("an image of COCO that is missing is named, or left out and counted", "[data]") {
  const TemporaryDirectory folder;
  write_coco(folder, "2017");
  std::filesystem::remove(folder.path() + "/train2017/a.png");
  BadInputs none, bad(true);
  CHECK_THAT(error_of([&] { read_coco({.directory = folder.path()}, none); }),
             StartsWith(folder.path() + "/train2017/a.png: cannot be opened"));
  const ImageDataset data = read_coco({.directory = folder.path(), .side = 3}, bad);
  CHECK(bad.count() == 1);
  CHECK(data.train.images.rows == std::vector<std::int32_t>{0, 0});
  CHECK(data.train.examples.size() == 2);
  CHECK(data.test.examples.size() == 3);
  std::filesystem::remove(folder.path() + "/annotations/captions_val2017.json");
  CHECK_THAT(error_of([&] { read_coco({.directory = folder.path(), .side = 3}, bad); }),
             StartsWith(folder.path() + "/annotations/captions_val2017.json: cannot be opened"));
  folder.write("annotations/captions_val2017.json", kCaptions);
  folder.write(
      "annotations/instances_val2017.json",
      R"({"images": [], "annotations": [], "categories": [{"id": 1, "name": "a", "supercategory": "b"}]})");
  CHECK_THAT(error_of([&] { read_coco({.directory = folder.path(), .side = 3}, bad); }),
             Contains("list different categories"));
  std::filesystem::remove_all(folder.path() + "/annotations");
  CHECK_THAT(error_of([&] { read_coco({.directory = folder.path()}, none); }),
             StartsWith(folder.path() + ": neither annotations/instances_train2017.json"));
}

TEST_CASE("errors in COCO's annotations give their place", "[data]") {
  const std::string image = R"({"id": 1, "file_name": "a.jpg"})";
  CHECK(coco_error(instances(image, "")) == "");
  CHECK(coco_error(instances(image, R"({"image_id": 2, "category_id": 1, "area": 1})")) ==
        "file: an annotation of image 2, which the file does not list");
  CHECK(coco_error(instances(image, R"({"image_id": 1, "category_id": 2, "area": 1})")) ==
        "file: an annotation of category 2, which the file does not list");
  CHECK(coco_error(instances(image, R"({"image_id": 1, "category_id": 1})")) ==
        "file: annotations[0]: no key `area`");
  CHECK(coco_error(instances(image + "," + image, "")) == "file: images[1]: id 1 is used more than once");
  CHECK(coco_error(instances(image + R"(, {"id": 2})", "")) == "file: images[1]: no key `file_name`");
  CHECK(coco_error(instances(R"({"id": 1.5, "file_name": "a"})", "")) ==
        "file: images[0]: `id` is a fraction, expected an integer");
  CHECK(coco_error(instances(R"({"id": 1, "file_name": 5})", "")) ==
        "file: images[0]: `file_name` is a number, expected a string");
  CHECK(coco_error(instances(image, R"({"image_id": 1, "category_id": 1, "area": -1})")) ==
        "file: annotations[0]: `area` is negative, expected a number of pixels");
  CHECK_THAT(coco_error(instances("5", "")), StartsWith("file: no `images` that is a list of objects"));
  CHECK_THAT(coco_error("{}"), StartsWith("file: no `images` that is a list of objects"));
  CHECK_THAT(coco_error("[]"), StartsWith("file: a JSON array"));
  CHECK_THAT(coco_error(""), StartsWith("file: not JSON"));
  CHECK_THAT(coco_error(kInstances.substr(0, kInstances.size() / 2)), StartsWith("file: not JSON"));
  CHECK_THAT(error_of([] {
               parse_coco_captions(R"({"images": [], "annotations": [
    {"image_id": 3, "caption": "x"}]})",
                                   "file");
             }),
             StartsWith("file: an annotation of image 3"));
}
