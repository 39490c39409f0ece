#include "data/image_transform.h"

#include <catch2/catch.hpp>
#include <map>
#include <numeric>
#include <set>

#include "tests/data/temporary_directory.h"
#include "tests/fixtures/image_fixture.h"

using namespace conclave;
using Catch::Matchers::Contains;

namespace {

Image resized(const Image& image, std::int64_t height, std::int64_t width) {
  Resizer resizer(image.shape, height, width);
  Image result{resizer.shape(), std::vector<std::uint8_t>(static_cast<std::size_t>(resizer.shape().size()))};
  resizer.resize(image.pixels, result.pixels);
  return result;
}

// An image with the values 1, 2, 3, ... in order.
Image counted(std::int64_t height, std::int64_t width, std::int64_t channels) {
  Image image{{height, width, channels}, {}};
  image.pixels.resize(static_cast<std::size_t>(image.shape.size()));
  std::iota(image.pixels.begin(), image.pixels.end(), std::uint8_t{1});
  return image;
}

std::vector<std::uint8_t> augmented(const Image& image, const AugmentationOptions& options,
                                    std::int64_t epoch, std::int64_t example, std::uint64_t seed = 0) {
  std::vector<std::uint8_t> result(image.pixels.size());
  Augmentation(image.shape, options).apply(seed, epoch, example, image.pixels, result);
  return result;
}

}  // namespace

TEST_CASE("an image is resized to the same levels as by Pillow", "[data]") {
  const std::string name = GENERATE("noise", "noise_grey");
  const auto [height, width] = GENERATE(std::pair(4, 6), std::pair(1, 1), std::pair(31, 20), std::pair(3, 13),
                                        std::pair(9, 5), std::pair(20, 7));
  CAPTURE(name, height, width);
  CHECK_THAT(resized(image_fixture(name), height, width),
             IsImage(image_fixture(fmt::format("{}_{}x{}", name, height, width)), 1));
}

TEST_CASE("an image resized to its own size is itself, and a white one stays white", "[data]") {
  const Image image = image_fixture("noise");
  CHECK_THAT(resized(image, image.shape.height, image.shape.width), IsImage(image, 0));
  const Image white{{7, 11, 1}, std::vector<std::uint8_t>(77, 255)};
  CHECK_THAT(resized(white, 5, 17), IsImage({{5, 17, 1}, std::vector<std::uint8_t>(85, 255)}, 0));
}

TEST_CASE("impossible sizes of a resize are refused", "[data]") {
  CHECK_THAT(error_of([] { Resizer({4, 4, 4}, 2, 2); }), Contains("4 channels") && Contains("to_rgb"));
  CHECK_THAT(error_of([] { Resizer({4, 0, 3}, 2, 2); }), Contains("from 4 x 0 pixels to 2 x 2"));
  CHECK_THAT(error_of([] { Resizer({4, 4, 3}, -1, 2); }), Contains("to -1 x 2"));
  std::vector<std::uint8_t> small(3), right(4);
  CHECK_THAT(error_of([&] {
               Resizer({4, 4, 1}, 2, 2).resize(small, right);
             }),
             Contains("3 bytes for 4 x 4 x 1"));
  CHECK_THAT(error_of([&] {
               Resizer({2, 2, 1}, 2, 2).resize(right, small);
             }),
             Contains("3 bytes for 2 x 2 x 1"));
}

TEST_CASE("a centre crop keeps the middle", "[data]") {
  const Image image = counted(4, 5, 2);
  std::vector<std::uint8_t> middle(2 * 2 * 2);
  centre_crop(image.pixels, image.shape, 2, 2, middle);
  CHECK(middle == std::vector<std::uint8_t>{13, 14, 15, 16, 23, 24, 25, 26});
  CHECK_THAT(error_of([&] { centre_crop(image.pixels, image.shape, 5, 2, middle); }),
             Contains("5 x 2 pixels of 4 x 5"));
  CHECK_THAT(error_of([&] { centre_crop(image.pixels, image.shape, 2, 3, middle); }),
             Contains("8 bytes for 2 x 3 x 2"));
}

TEST_CASE("fit_image crops the middle of an image to the wanted proportions", "[data]") {
  Image image{{2, 4, 1}, {9, 10, 20, 9, 9, 30, 40, 9}};
  CHECK(fit_image(image, {2, 2, 3}).pixels ==
        std::vector<std::uint8_t>{10, 10, 10, 20, 20, 20, 30, 30, 30, 40, 40, 40});
  CHECK(fit_image(image, {2, 1, 1}).pixels == std::vector<std::uint8_t>{10, 30});
  CHECK(fit_image(image, {2, 4, 1}).pixels == image.pixels);
  CHECK(fit_image(image, {1, 2, 1}).pixels.size() == 2);  // the whole image, scaled down
  image = {{3, 1, 4}, {0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 9}};
  CHECK(fit_image(image, {1, 1, 3}).pixels == std::vector<std::uint8_t>{255, 255, 255});
  const Image line{{1, 100'000, 1}, std::vector<std::uint8_t>(100'000, 7)};  // cropped to its middle pixel
  CHECK(fit_image(line, {3, 1, 1}).pixels == std::vector<std::uint8_t>{7, 7, 7});
}

TEST_CASE("without options an image is left as it is", "[data]") {
  const Image image = counted(5, 6, 3);
  CHECK(augmented(image, {}, 3, 1) == image.pixels);
}

TEST_CASE("padding and cropping moves an image to each position equally often", "[data]") {
  const Image image = counted(6, 5, 2);
  std::map<std::vector<std::uint8_t>, int> seen;
  for (int example = 0; example < 2500; ++example)
    ++seen[augmented(image, {.padding = 2, .fill = {0, 200}}, 0, example)];
  REQUIRE(seen.size() == 25);
  for (const auto& [pixels, times] : seen) CHECK(times == Approx(100).margin(40));
  for (int down = -2; down <= 2; ++down)
    for (int right = -2; right <= 2; ++right) {
      std::vector<std::uint8_t> moved;
      for (int y = down; y < 6 + down; ++y)
        for (int x = right; x < 5 + right; ++x)
          for (int c = 0; c < 2; ++c) {
            const bool inside = y >= 0 && y < 6 && x >= 0 && x < 5;
            moved.push_back(inside ? image.pixels[static_cast<std::size_t>((y * 5 + x) * 2 + c)]
                            : c    ? std::uint8_t{200}
                                   : std::uint8_t{0});
          }
      CHECK(seen.contains(moved));
    }
}

TEST_CASE("every second image is flipped, left to right", "[data]") {
  const Image image{{2, 3, 1}, {1, 2, 3, 4, 5, 6}};
  const std::vector<std::uint8_t> flipped{3, 2, 1, 6, 5, 4};
  int flips = 0;
  for (int example = 0; example < 1000; ++example) {
    const auto pixels = augmented(image, {.flip = true}, 0, example);
    REQUIRE((pixels == flipped || pixels == image.pixels));
    flips += pixels == flipped;
  }
  CHECK(flips == Approx(500).margin(60));
}

TEST_CASE("random erasing fills one rectangle of 2 to 40 % with the given probability", "[data]") {
  const Image image{{24, 20, 1}, std::vector<std::uint8_t>(480, 9)};
  int erased = 0, tall = 0;
  for (int example = 0; example < 2000; ++example) {
    const auto pixels = augmented(image, {.erase = 0.25, .fill = {100}}, 0, example);
    int top = 24, left = 20, bottom = -1, right = -1, count = 0;
    for (int y = 0; y < 24; ++y)
      for (int x = 0; x < 20; ++x)
        if (pixels[static_cast<std::size_t>(y * 20 + x)] == 100) {
          top = std::min(top, y), bottom = std::max(bottom, y);
          left = std::min(left, x), right = std::max(right, x);
          ++count;
        }
    if (count == 0) continue;
    ++erased;
    const int height = bottom - top + 1, width = right - left + 1;
    REQUIRE(count == height * width);
    REQUIRE(count >= 0.01 * 480);
    REQUIRE(count <= 0.45 * 480);
    tall += height > width;
  }
  CHECK(erased == Approx(500).margin(80));
  CHECK(tall == Approx(erased / 2).margin(70));
}

TEST_CASE("erasing with noise uses all levels and differs between images", "[data]") {
  const Image image{{16, 16, 3}, std::vector<std::uint8_t>(768, 0)};
  std::set<std::uint8_t> levels;
  std::set<std::vector<std::uint8_t>> images;
  for (int example = 0; example < 50; ++example) {
    const auto pixels = augmented(image, {.erase = 1, .erase_with_noise = true}, 0, example);
    levels.insert(pixels.begin(), pixels.end());
    images.insert(pixels);
  }
  CHECK(levels.size() == 256);
  CHECK(images.size() == 50);
}

TEST_CASE("augmentation depends only on the seed, the epoch and the example", "[data]") {
  const Image image = counted(9, 9, 3);
  const AugmentationOptions options{.padding = 4, .flip = true, .erase = 0.5, .erase_with_noise = true};
  int by_epoch = 0, by_example = 0, by_seed = 0;
  for (int example = 0; example < 100; ++example) {
    const auto pixels = augmented(image, options, 5, example, 7);
    REQUIRE(augmented(image, options, 5, example, 7) == pixels);
    by_epoch += augmented(image, options, 6, example, 7) != pixels;
    by_example += augmented(image, options, 5, example + 1, 7) != pixels;
    by_seed += augmented(image, options, 5, example, 8) != pixels;
  }
  CHECK(std::min({by_epoch, by_example, by_seed}) > 90);
}

TEST_CASE("invalid augmentation options are refused", "[data]") {
  const auto error = [](const ImageShape& shape, const AugmentationOptions& options) {
    return error_of([&] { Augmentation(shape, options); });
  };
  CHECK_THAT(error({4, 6, 3}, {.padding = 4}), Contains("padding of 4 for pictures of 4 x 6"));
  CHECK_THAT(error({4, 6, 3}, {.padding = -1}), Contains("padding of -1"));
  CHECK_THAT(error({4, 6, 3}, {.erase = 1.5}), Contains("erase is 1.5"));
  CHECK_THAT(error({4, 6, 5}, {}), Contains("4 x 6 x 5"));
  std::vector<std::uint8_t> small(3), right(4);
  const Augmentation augmentation({2, 2, 1}, {});
  CHECK_THAT(error_of([&] { augmentation.apply(0, 0, 0, small, right); }), Contains("from: 3 bytes"));
  CHECK_THAT(error_of([&] { augmentation.apply(0, 0, 0, right, small); }), Contains("to: 3 bytes"));
}
