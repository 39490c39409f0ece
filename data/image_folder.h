// A user's own images, sorted into a folder for each class: FOLDER/CLASS/*.png, *.jpg or *.jpeg, in either
// case. Where FOLDER/train has folders, the splits are folders of classes of their own: train, validation (or
// val, valid or dev) and test, of which the last two may be missing. Else an image's split depends on its own
// path alone, crc32("CLASS/NAME.png") % 10: 0..7 train, 8 validation, 9 test.
//
// Other files, and folders within those of the classes, are not looked at.
#pragma once

#include <cstdint>
#include <string>

#include "data/bad_inputs.h"
#include "data/dataset.h"

namespace conclave {

/// The middle squares of the images, in colour, at `side` x `side` pixels, by class and name in the order of
/// their bytes, and so the same for everybody; class names are those of train. Throws Error for a folder
/// without classes, a class without images, one that train lacks, and an image that cannot be read, unless
/// `bad` has such left out. `bad` is told what else is left out, hidden files apart, and of classes that are
/// left without a training image.
ImageDataset read_image_folder(const std::string& folder, std::int64_t side, BadInputs& bad);

}  // namespace conclave
