#include "recipes/corpus/training_batches.h"

#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>

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
      augmentation.apply(0, 0, example, background, changed);
      CHECK(changed == background);
      augmentation.apply(0, 0, example, shown, changed);
      CHECK(std::ranges::count(changed, around) > 0);  // something was cut off
      CHECK(std::ranges::count(changed, around) + std::ranges::count(changed, 100) == std::ssize(changed));
    }
  }
  CHECK(!training_batches(Recipe(), ImagesOnly(false)).augmentation);
}

TEST_CASE("the steps of the epochs see every batch, whatever a step has of them", "[training_batches]") {
  TrainRecipe train;
  train.epochs = 1;
  train.accumulate = 4;
  CHECK(steps_of_epoch(train, 7, 1) == 1.75);
  CHECK(steps_of_epochs(train, 1.75) == 2);  // of 8 batches
  train.epochs = 4;
  CHECK(steps_of_epochs(train, 1.75) == 7);
  CHECK(steps_of_epochs(train, 0.01) == 1);
  CHECK_THROWS_WITH(steps_of_epochs(train, 1e19), Catch::Contains("weight"));
  // As before where a step has one batch of the only task.
  train.accumulate = 1;
  for (const std::int64_t batches : {1, 7, 310, 123456789}) {
    CHECK(steps_of_epoch(train, batches, 1) == static_cast<double>(batches));
    CHECK(steps_of_epochs(train, steps_of_epoch(train, batches, 1)) == 4 * batches);
  }
  for (const double share : {0.1, 1.0 / 3, 0.7})  // a share of two tasks: rounding adds no step
    CHECK(steps_of_epochs(train, steps_of_epoch(train, 21, share)) == std::llround(84 / share));
}

}  // namespace conclave
