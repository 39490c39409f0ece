// Fashion-MNIST's images with WordNet's definitions as a task of image and text together: does the text
// describe what the image shows? An image has a text that is as likely right as wrong, and every text is as
// often right as wrong, so that neither of the two alone tells anything.
//
// A text is what WordNet says of one of a few words for a class: of `sandal`, "a shoe consisting of a sole
// fastened by straps to the foot". The word itself is not in it, nor are WordNet's examples of its use. A
// shirt's definition is true of T-shirts and pullovers, too; so the wrong definitions that an image may have
// are those of seven classes, never of these.
//
// All splits have the same texts. There are two for most classes: who has read of a garment from the waist to
// the knee or ankle has no way to know that pants for casual wear are the same, so that texts held back would
// test for nothing, and leave one for each class to learn from, which might as well be its number. What the
// test split does test is whether images that were never seen are matched with what was read about others.
#pragma once

#include <string>

#include "data/dataset.h"
#include "data/fashion_mnist.h"
#include "data/wordnet.h"

namespace conclave {

/// read_fashion_mnist's images and splits with texts, in the classes `mismatch` and `match`; an example's
/// caption is the name of the image's own class. The text is decided by the image's number in its file alone,
/// crc32 of e.g. "train 123" or "t10k 123". Throws Error for what is wrong in either folder.
ImageDataset read_fashion_gloss(const std::string& fashion_mnist = kFashionMnistDirectory,
                                const std::string& wordnet = kWordNetDirectory);

}  // namespace conclave
