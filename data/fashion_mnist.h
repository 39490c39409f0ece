// Fashion-MNIST (Xiao, Rasul and Vollgraf 2017): 70,000 grey pictures of 28 x 28 pixels of clothes from a
// shop, in 10 classes.
#pragma once

#include <string>

#include "data/dataset.h"

namespace conclave {

/// Where Debian's package dataset-fashion-mnist puts the files.
inline constexpr const char* kFashionMnistDirectory = "/usr/share/datasets/fashion-mnist";

/// The 60,000 and 10,000 images, without texts. The last twelfth of the former, 5,000, is the validation
/// split: the file's order is random and never changes, so that a hash of each image would do no better.
/// Throws Error for a missing or damaged file, and one that does not fit the others.
ImageDataset read_fashion_mnist(const std::string& directory = kFashionMnistDirectory);

}  // namespace conclave
