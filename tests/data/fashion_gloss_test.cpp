#include "data/fashion_gloss.h"

#include <algorithm>
#include <array>
#include <catch2/catch.hpp>
#include <cmath>
#include <map>
#include <set>

#include "tests/data/idx_file.h"
#include "tests/data/temporary_directory.h"

using namespace conclave;
using Catch::Matchers::Contains;

namespace {

// WordNet's words for the ten classes, as index.noun spells them.
const std::vector<std::string> kLemmas{"t-shirt", "polo_shirt", "trouser", "slacks",  "pullover",
                                       "sweater", "dress",      "gown",    "coat",    "greatcoat",
                                       "sandal",  "flip-flop",  "shirt",   "sneaker", "running_shoe",
                                       "bag",     "handbag",    "boot",    "chukka"};

// A folder with the files of both data sets: 240 training and 250 test images of 1 x 2 pixels, where the
// first pixel is the class, and a definition for each word, such as "of t-shirt".
struct GlossFolder : TemporaryDirectory {
  GlossFolder() {
    for (const auto& [file, count] : {std::pair("train", 240), std::pair("t10k", 250)}) {
      std::string pixels, labels;
      for (int i = 0; i < count; ++i) {
        labels += static_cast<char>(i % 10);
        pixels += {static_cast<char>(i % 10), '\0'};
      }
      write(file + std::string("-images-idx3-ubyte.gz"), idx_file({count, 1, 2}, pixels));
      write(file + std::string("-labels-idx1-ubyte.gz"), idx_file({count}, labels));
    }
    std::string index = "  1 the licence\n", data = index;
    for (std::size_t i = 0; i < kLemmas.size(); ++i) {
      const std::string& lemma = kLemmas[i];
      index += fmt::format("{} n 1 2 @ ~ 1 0 {:08}  \n", lemma, i + 1);
      data += fmt::format("{:08} 06 n 01 {} 0 000 | of {}; \"{} again\"  \n", i + 1, lemma, lemma, lemma);
    }
    write("index.noun", index);
    write("data.noun", data);
  }
  ImageDataset read() const { return read_fashion_gloss(path(), path()); }
};

const std::map<std::string, std::size_t> kClasses{
    {"of t-shirt", 0}, {"of polo_shirt", 0}, {"of trouser", 1}, {"of slacks", 1},  {"of pullover", 2},
    {"of sweater", 2}, {"of dress", 3},      {"of gown", 3},    {"of coat", 4},    {"of greatcoat", 4},
    {"of sandal", 5},  {"of flip-flop", 5},  {"of shirt", 6},   {"of sneaker", 7}, {"of running_shoe", 7},
    {"of bag", 8},     {"of handbag", 8},    {"of boot", 9},    {"of chukka", 9}};

}  // namespace

TEST_CASE("an image matches the definitions of its own class, and no other's", "[data]") {
  ImageDataset data = GlossFolder().read();
  CHECK(data.class_names == std::vector<std::string>{"mismatch", "match"});
  std::set<std::string> seen;
  for (const auto& [name, count] :
       {std::pair("train", 220), std::pair("validation", 20), std::pair("test", 250)}) {
    const ImageSplit& split = data.split(name);
    REQUIRE(split.examples.size() == static_cast<std::size_t>(count));
    for (std::size_t i = 0; i < split.examples.size(); ++i) {
      const TextExample& example = split.examples[i];
      const std::size_t shown = split.images.of(static_cast<std::int64_t>(i))[0];
      const std::size_t described = kClasses.at(example.text);
      CHECK(example.label == (described == shown ? 1 : 0));
      const std::set<std::size_t> both{shown, described};
      CHECK(both != std::set<std::size_t>{0, 6});  // T-shirts and pullovers are shirts, too: no mismatch
      CHECK(both != std::set<std::size_t>{2, 6});
      seen.insert(example.text);
    }
  }
  CHECK(seen.size() == kLemmas.size());
  CHECK(data.train.examples[9].captions == std::vector<std::string>{"Ankle boot"});
}

TEST_CASE("an image's text depends on its number in its file", "[data]") {
  ImageDataset data = GlossFolder().read();
  const auto matches = [](const ImageSplit& split) {
    std::string all;
    for (std::size_t i = 0; i < 16; ++i) all += split.examples[i].label == 1 ? '1' : '0';
    return all;
  };
  // crc32 of "train 0" and so on, modulo 2; validation begins with "train 220"
  CHECK(matches(data.train) == "0000111100000011");
  CHECK(matches(data.validation) == "0000111100111100");
  CHECK(matches(data.test) == "0000111100000011");
}

TEST_CASE("half of Fashion-MNIST's images match, and each text half of the time", "[data]") {
  ImageDataset data = read_fashion_gloss();
  std::map<std::string, std::array<int, 2>> texts;
  std::map<std::string, std::array<int, 2>> shown;
  for (const auto& [name, count] :
       {std::pair("train", 55'000), std::pair("validation", 5'000), std::pair("test", 10'000)}) {
    const std::vector<TextExample>& examples = data.split(name).examples;
    REQUIRE(examples.size() == static_cast<std::size_t>(count));
    CHECK(data.split(name).images.size() == count);
    std::set<std::string> of_split;
    const auto matching = std::ranges::count(examples, 1, &TextExample::label);
    CHECK(std::abs(static_cast<double>(matching) / count - 0.5) < 0.02);
    for (const TextExample& example : examples) {
      ++texts[example.text][static_cast<std::size_t>(example.label)];
      ++shown[example.captions.at(0)][static_cast<std::size_t>(example.label)];
      of_split.insert(example.text);
    }
    CHECK(of_split.size() == 19);
  }
  CHECK(texts.size() == 19);
  CHECK(shown.size() == 10);
  for (const auto* counts : {&texts, &shown})
    for (const auto& [what, count] : *counts) {
      CAPTURE(what, count[0], count[1]);
      CHECK(std::abs(count[1] / static_cast<double>(count[0] + count[1]) - 0.5) < 0.03);
    }
  for (const char* definition :
       {"a close-fitting pullover shirt", "a one-piece garment for a woman; has skirt and bodice",
        "(usually in the plural) a garment extending from the waist to the knee or ankle, covering each leg "
        "separately",
        "an outer garment that has sleeves and covers the body from shoulder down; worn outdoors",
        "a flexible container with a single opening", "footwear that covers the whole foot and lower leg"})
    CHECK(texts.contains(definition));
}

TEST_CASE("files of either data set that are missing name the package to install", "[data]") {
  const GlossFolder folder;
  CHECK_THAT(error_of([&] { read_fashion_gloss("/nonexistent", folder.path()); }),
             Contains("apt-get install dataset-fashion-mnist"));
  CHECK_THAT(error_of([&] { read_fashion_gloss(folder.path(), "/nonexistent"); }),
             Contains("/nonexistent/index.noun") && Contains("apt-get install wordnet-base"));
}
