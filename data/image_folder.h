// A user's own images, sorted into one folder per class: FOLDER/CLASS/*.png, *.jpg or *.jpeg, in upper or
// lower case. If FOLDER/train contains folders, each split is a folder of class folders: train, validation
// (or val, valid or dev) and test; the last two may be missing. Otherwise an image's split depends on its own
// path alone: crc32("CLASS/NAME.png") % 10: 0..7 train, 8 validation, 9 test.
//
// Other files, and folders within class folders, are ignored.
#pragma once

#include <cstdint>
#include <string>

#include "data/bad_inputs.h"
#include "data/dataset.h"

namespace conclave {

/// Reads the images as RGB, centre-cropped to a square and resized to `side` x `side` pixels, in the byte
/// order of class and file name, so that the order is the same on every machine. Class names are the folder
/// names of train. Throws Error for a folder without classes, a class without images, a class that train
/// lacks, and an image that cannot be read (or skips the image if `bad` says so). `bad` gets a warning about
/// everything else that is left out, except hidden files, and about classes without a training image.
ImageDataset read_image_folder(const std::string& folder, std::int64_t side, BadInputs& bad);

}  // namespace conclave
