// COCO (Lin et al. 2014) in the files that it is published as: a folder with
// annotations/instances_train2017.json, captions_train2017.json and the same of val2017, and with the images
// in train2017 and val2017; or 2014 in place of 2017.
//
// An image's class is the category that takes up most of it: that of the largest sum of `area` over its
// annotations, crowds included, and of equal ones the category with the smaller id. Images without
// annotations (1% of them) have no class and are left out. Its captions, five or so, are one example each,
// and share the image; or, where images are shown without texts, go with the one example of the image.
//
// Test images are published without annotations. So the test split here is the whole of val; validation is a
// twentieth of train, the images with crc32(id) % 20 == 0, id in decimal.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "data/bad_inputs.h"
#include "data/dataset.h"

namespace conclave {

struct CocoCategory {
  std::int64_t id = 0;
  std::string name, supercategory;  ///< "dog", "animal"
};

struct CocoImage {
  std::int64_t id = 0;
  std::string file;            ///< within the images' folder
  std::int64_t category = -1;  ///< index of its category; -1: it has no annotation
};

struct CocoInstances {
  std::vector<CocoCategory> categories;  ///< by id
  std::vector<CocoImage> images;         ///< by id
};

/// An instances_*.json. Throws Error, which begins with `path`, for what is not JSON, an entry that lacks a
/// key, an id given twice, and an annotation of an image or a category that is not in the file.
CocoInstances parse_coco_instances(std::string_view content, const std::string& path);

/// The captions of each image in a captions_*.json, by the image's id, in the file's order. Throws Error
/// likewise.
std::map<std::int64_t, std::vector<std::string>> parse_coco_captions(std::string_view content,
                                                                     const std::string& path);

struct CocoOptions {
  std::string directory;
  std::int64_t side = 64;        ///< images are their middle squares, in colour, at `side` x `side` pixels
  bool images = true;            ///< false: no image is read
  bool texts = true;             ///< each caption is the text of an example; false: each image is one example
  bool captions = false;         ///< of images without texts: what they show is read for who is to say it
  bool supercategories = false;  ///< classes are the 12 supercategories, not the 80 categories
};

/// Examples by their images' ids, classes by the categories'. Throws Error for a missing or malformed file,
/// an annotation of an image that is not in the file, and, unless `bad` has such left out, an image that is
/// missing or cannot be read.
ImageDataset read_coco(const CocoOptions& options, BadInputs& bad);

}  // namespace conclave
