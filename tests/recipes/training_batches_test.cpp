#include "recipes/training_batches.h"

#include <algorithm>
#include <catch2/catch.hpp>

namespace conclave {
namespace {

class ImagesOnly : public Task {
 public:
  explicit ImagesOnly(bool augments) : Task(TaskKind::classify), augments_(augments) {}
  Index image_tokens() const override { return 3; }
  bool augments() const override { return augments_; }
  TaskOutput operator()(Tape&, ForwardContext&, const ModelInput&) override { return {}; }
  std::vector<Cost> costs(Index) const override { return {}; }

 private:
  bool augments_;
};

}  // namespace

TEST_CASE("parts of an image that are cut off in training get the background colour", "[training_batches]") {
  const ImageShape shape{8, 8, 3};
  const auto size = static_cast<std::size_t>(shape.size());
  for (const auto& [source, around] : {std::pair("emoji", 255), std::pair("fashion_gloss", 0)}) {
    Recipe recipe;
    recipe.data.source = source;
    recipe.image.shift = 2;
    recipe.image.erase = 1;
    const BatcherOptions options = training_batches(recipe, ImagesOnly(true));
    CHECK(options.image_tokens == 3);
    REQUIRE(options.augmentation);
    const Augmentation augmentation(shape, *options.augmentation);
    const std::vector<std::uint8_t> background(size, static_cast<std::uint8_t>(around)), shown(size, 100);
    std::vector<std::uint8_t> changed(size);
    for (std::int64_t example = 0; example < 20; ++example) {
      augmentation.apply(0, example, background, changed);
      CHECK(changed == background);
      augmentation.apply(0, example, shown, changed);
      CHECK(std::ranges::count(changed, around) > 0);  // something was cut off
      CHECK(std::ranges::count(changed, around) + std::ranges::count(changed, 100) == std::ssize(changed));
    }
  }
  CHECK(!training_batches(Recipe(), ImagesOnly(false)).augmentation);
}

}  // namespace conclave
