#include "data/fashion_mnist.h"

#include <fmt/ranges.h>

#include <utility>

#include "core/file.h"
#include "data/idx.h"

namespace conclave {
namespace {

ImageSplit read_split(const std::string& directory, const std::string& prefix, std::size_t classes) {
  const auto read = [](const std::string& path) {
    return parse_idx(read_file(path,
                               "Fashion-MNIST comes with `apt-get install dataset-fashion-mnist`, into "
                               "/usr/share/datasets/fashion-mnist"),
                     path);
  };
  const std::string images_path = directory + "/" + prefix + "-images-idx3-ubyte.gz";
  const std::string labels_path = directory + "/" + prefix + "-labels-idx1-ubyte.gz";
  IdxArray images = read(images_path);
  const IdxArray labels = read(labels_path);
  require(images.extents.size() == 3, "{}: {} extents; images have 3", images_path, images.extents.size());
  require(labels.extents.size() == 1 && labels.extents[0] == images.extents[0],
          "{}: {} labels, but {} has {} images", labels_path, fmt::join(labels.extents, " x "), images_path,
          images.extents[0]);
  ImageSplit split;
  split.images.shape = {images.extents[1], images.extents[2], 1};
  split.images.pixels = std::move(images.values);
  for (std::size_t i = 0; i < labels.values.size(); ++i) {
    require(labels.values[i] < classes, "{}: label {} is {}; there are {} classes", labels_path, i,
            labels.values[i], classes);
    split.images.rows.push_back(static_cast<std::int32_t>(i));
    split.examples.push_back({.text = {}, .label = labels.values[i]});
  }
  return split;
}

// Moves the examples from number `first` on out of `split`. Requires that each example has the image with its
// own number.
ImageSplit cut_off(ImageSplit& split, std::size_t first) {
  const auto places = static_cast<std::ptrdiff_t>(first);
  const std::ptrdiff_t pixels = places * split.images.shape.size();
  ImageSplit rest{{split.examples.begin() + places, split.examples.end()},
                  {split.images.shape,
                   {split.images.pixels.begin() + pixels, split.images.pixels.end()},
                   {split.images.rows.begin(), split.images.rows.end() - places}}};
  split.examples.resize(first);
  split.images.pixels.resize(static_cast<std::size_t>(pixels));
  split.images.rows.resize(first);
  return rest;
}

}  // namespace

ImageDataset read_fashion_mnist(const std::string& directory) {
  ImageDataset data;
  data.class_names = {"T-shirt/top", "Trouser", "Pullover", "Dress", "Coat",
                      "Sandal",      "Shirt",   "Sneaker",  "Bag",   "Ankle boot"};
  data.train = read_split(directory, "train", data.class_names.size());
  data.test = read_split(directory, "t10k", data.class_names.size());
  require(data.test.images.shape == data.train.images.shape,
          "{}: test images of {} x {} pixels, but training images of {} x {}", directory,
          data.test.images.shape.height, data.test.images.shape.width, data.train.images.shape.height,
          data.train.images.shape.width);
  data.validation = cut_off(data.train, data.train.examples.size() - data.train.examples.size() / 12);
  return data;
}

}  // namespace conclave
