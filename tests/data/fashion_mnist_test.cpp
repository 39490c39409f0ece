#include "data/fashion_mnist.h"

#include <array>
#include <catch2/catch.hpp>

#include "tests/data/idx_file.h"
#include "tests/data/temporary_directory.h"

using namespace conclave;
using Catch::Matchers::Contains;

namespace {

// A folder with 24 training images of 2 x 3 pixels, which are filled with the letters a to x, and one test
// image.
struct MnistFolder : TemporaryDirectory {
  MnistFolder() {
    std::string pixels;
    for (char letter = 'a'; letter < 'y'; ++letter) pixels += std::string(6, letter);
    write("train-images-idx3-ubyte.gz", idx_file({24, 2, 3}, pixels));
    write("train-labels-idx1-ubyte.gz", idx_file({24}, std::string(20, '\1') + "\2\3\4\5"));
    write("t10k-images-idx3-ubyte.gz", idx_file({1, 2, 3}, "ABCDEF"));
    write("t10k-labels-idx1-ubyte.gz", idx_file({1}, "\x9"));
  }
  std::string error() const {
    return error_of([&] { read_fashion_mnist(path()); });
  }
};

}  // namespace

TEST_CASE("Fashion-MNIST has 55,000, 5,000 and 10,000 images of 10 classes", "[data]") {
  const ImageDataset data = read_fashion_mnist();
  REQUIRE(data.class_names.size() == 10);
  CHECK(data.class_names[9] == "Ankle boot");
  std::array<int, 10> classes{};
  for (const auto& [split, count] :
       {std::pair(&data.train, 55'000), std::pair(&data.validation, 5'000), std::pair(&data.test, 10'000)}) {
    CHECK(split->examples.size() == static_cast<std::size_t>(count));
    CHECK(split->images.size() == count);
    CHECK(split->images.rows.size() == static_cast<std::size_t>(count));
    CHECK(split->images.shape == ImageShape{28, 28, 1});
    for (const TextExample& example : split->examples) ++classes[static_cast<std::size_t>(example.label)];
  }
  for (const int count : classes) CHECK(count == 7000);
  CHECK(data.train.examples[0].label == 9);  // as in the README of Fashion-MNIST
}

TEST_CASE("the last twelfth of the training images is for validation", "[data]") {
  const ImageDataset data = read_fashion_mnist(MnistFolder().path());
  REQUIRE(data.train.images.size() == 22);
  REQUIRE(data.validation.images.size() == 2);
  CHECK(data.train.images.of(21)[0] == 'v');
  CHECK(data.train.examples[21].label == 3);
  CHECK(data.validation.images.of(0)[5] == 'w');
  CHECK(data.validation.images.of(1)[5] == 'x');
  CHECK(data.validation.examples[1].label == 5);
  CHECK(data.test.examples[0].label == 9);
}

TEST_CASE("files of Fashion-MNIST that do not fit each other are named", "[data]") {
  const MnistFolder folder;
  CHECK(folder.error() == "");
  folder.write("t10k-images-idx3-ubyte.gz", idx_file({1, 3, 2}, "ABCDEF"));
  CHECK_THAT(folder.error(), Contains("test images of 3 x 2 pixels, but training images of 2 x 3"));
  folder.write("t10k-images-idx3-ubyte.gz", idx_file({6}, "ABCDEF"));
  CHECK_THAT(folder.error(), Contains("t10k-images-idx3-ubyte.gz: 1 extents; images have 3"));
  folder.write("train-labels-idx1-ubyte.gz", idx_file({24}, std::string(23, '\1') + "\xA"));
  CHECK_THAT(folder.error(), Contains("train-labels-idx1-ubyte.gz: label 23 is 10; there are 10 classes"));
  folder.write("train-labels-idx1-ubyte.gz", idx_file({23}, std::string(23, '\1')));
  CHECK_THAT(folder.error(),
             Contains("train-labels-idx1-ubyte.gz: 23 labels, but ") && Contains(" has 24 images"));
  CHECK_THAT(error_of([] { read_fashion_mnist("/nonexistent"); }),
             Contains("/nonexistent/train-images-idx3-ubyte.gz") &&
                 Contains("apt-get install dataset-fashion-mnist"));
}
