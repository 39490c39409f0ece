#include "data/parts.h"

#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <map>

using namespace conclave;

namespace {

// `each` examples of each class, class by class.
std::vector<TextExample> examples_of(std::int32_t classes, int each) {
  std::vector<TextExample> examples;
  for (std::int32_t label = 0; label < classes; ++label)
    for (int i = 0; i < each; ++i)
      examples.push_back({.text = std::to_string(label) + "/" + std::to_string(i), .label = label});
  return examples;
}

}  // namespace

TEST_CASE("random parts have about the same size and are reproducible") {
  const auto examples = examples_of(10, 1000);
  const PartsOptions options{.parts = 4};
  const auto parts = part_of(examples, options, 0);
  CHECK(parts == part_of(examples, options, 0));
  CHECK(parts != part_of(examples, options, 1));
  for (std::int64_t part = 0; part < 4; ++part)
    CHECK(std::abs(std::ranges::count(parts, part) - 2500) < 250);  // over five standard deviations of 43
}

TEST_CASE("parts by label keep each class in one part") {
  const auto examples = examples_of(5, 3);
  const auto parts = part_of(examples, {.parts = 2, .by = "label"}, 0);
  for (std::size_t i = 0; i < examples.size(); ++i) CHECK(parts[i] == examples[i].label % 2);
}

TEST_CASE("Dirichlet shares have the distribution's mean and variance") {
  for (const double alpha : {0.1, 0.3, 5.0}) {
    const std::int32_t classes = 400;
    const int each = 500, parts = 4;
    const auto assigned =
        part_of(examples_of(classes, each), {.parts = parts, .by = "dirichlet", .alpha = alpha}, 0);
    double sum = 0, squares = 0;
    for (std::int32_t label = 0; label < classes; ++label) {
      const auto begin = assigned.begin() + label * each;
      const double share = static_cast<double>(std::count(begin, begin + each, 0)) / each;
      sum += share;
      squares += share * share;
    }
    const double mean = sum / classes, variance = squares / classes - mean * mean;
    // One of k shares has mean 1/k and variance (1/k)(1 - 1/k) / (k alpha + 1), plus the variance of drawing
    // a finite number of examples.
    const double expected = 0.25 * 0.75 / (parts * alpha + 1);
    const double drawing = (0.25 * 0.75 - expected) / each;
    CHECK(mean == Approx(0.25).margin(4 * std::sqrt(expected / classes)));
    CHECK(variance == Approx(expected + drawing).epsilon(0.25));
  }
}

TEST_CASE("the parts together are the data set, each with its own images") {
  const auto data = [] {
    ImageDataset data;
    data.class_names = {"a", "b", "c"};
    data.train.examples = examples_of(3, 20);
    data.train.images.shape = {1, 2, 1};
    for (int i = 0; i < 60; ++i) {
      data.train.images.rows.push_back(i % 5 == 0 ? -1 : i / 2);  // some have no image, some share one
      if (i % 2 == 0)
        for (int byte = 0; byte < 2; ++byte)
          data.train.images.pixels.push_back(static_cast<std::uint8_t>(i / 2 + 100 * byte));
    }
    return data;
  };
  const ImageDataset whole = data();
  std::map<std::string, std::vector<std::uint8_t>> found;
  for (std::int64_t part = 0; part < 3; ++part) {
    ImageDataset one = data();
    keep_part(one, {.parts = 3}, part);
    CHECK(one.train.images.rows.size() == one.train.examples.size());
    CHECK(one.train.images.size() < 30);
    for (std::size_t i = 0; i < one.train.examples.size(); ++i) {
      const auto image = one.train.images.of(static_cast<std::int64_t>(i));
      CHECK(found.emplace(one.train.examples[i].text, std::vector(image.begin(), image.end())).second);
    }
  }
  REQUIRE(found.size() == 60);
  for (std::size_t i = 0; i < 60; ++i) {
    const auto image = whole.train.images.of(static_cast<std::int64_t>(i));
    CHECK(found.at(whole.train.examples[i].text) == std::vector(image.begin(), image.end()));
  }
}
