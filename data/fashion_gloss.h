// A task of image and text together: Fashion-MNIST's images, each with a definition from WordNet. Does the
// text describe what the image shows? For every image and for every text the answer is yes with probability
// 1/2, so neither input alone predicts it.
//
// Each class has one or two words, and a text is WordNet's definition of such a word: for `sandal`, "a shoe
// consisting of a sole fastened by straps to the foot". The word itself and WordNet's examples of its use are
// not part of the text. A shirt's definition also fits T-shirts and pullovers. So an image's wrong
// definitions come from only seven of the other classes, chosen such that shirts are never combined with
// T-shirts or pullovers.
//
// All splits use the same texts. Most classes have two. Holding back one of the two would not be a meaningful
// test: the definition of trousers (a garment from the waist to the knee or ankle) does not tell a reader
// that slacks (pants for casual wear) are the same thing. It would also leave one text per class for
// training, which a model could treat as the class's number. The test split instead measures whether unseen
// images are matched with texts that were learnt from other images.
#pragma once

#include <string>

#include "data/dataset.h"
#include "data/fashion_mnist.h"
#include "data/wordnet.h"

namespace conclave {

/// read_fashion_mnist's images and splits with texts, in the classes `mismatch` and `match`. An example's
/// caption is the name of the image's class. The choice of the text depends only on the image's class and on
/// its number in its file, by crc32 of e.g. "train 123" or "t10k 123". Throws Error as read_fashion_mnist and
/// read_definitions do.
ImageDataset read_fashion_gloss(const std::string& fashion_mnist = kFashionMnistDirectory,
                                const std::string& wordnet = kWordNetDirectory);

}  // namespace conclave
