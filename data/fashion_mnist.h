// Fashion-MNIST (Xiao, Rasul and Vollgraf 2017): 70,000 grey pictures of 28 x 28 pixels of articles from a
// clothes shop, in 10 classes.
#pragma once

#include <string>

#include "data/dataset.h"

namespace conclave {

/// Path at which Debian's package dataset-fashion-mnist installs the files.
inline constexpr const char* kFashionMnistDirectory = "/usr/share/datasets/fashion-mnist";

/// Reads the 60,000 training and 10,000 test images, without texts. The last twelfth of the training file,
/// 5,000 images, becomes the validation split; the file's order is random and fixed, so a hash of each image
/// would be no better. Throws Error for a missing or damaged file, and for files that do not match each
/// other.
ImageDataset read_fashion_mnist(const std::string& directory = kFashionMnistDirectory);

}  // namespace conclave
