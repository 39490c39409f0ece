// Reader for COCO (Lin et al. 2014) in its published files: a folder with
// annotations/instances_train2017.json, annotations/captions_train2017.json, the same two files for val2017,
// and the images in train2017 and val2017. The year may also be 2014 in all names.
//
// An image's class is the category that covers most of it: the category with the largest sum of `area` over
// the image's annotations, crowds included. Ties go to the category with the smaller id. Images without
// annotations (1% of them) have no class and are left out. Each of an image's captions (about five) becomes
// one example, and these examples share the image. If images are used without texts, each image is one
// example that carries all its captions.
//
// COCO's test images are published without annotations, so the test split here is the whole of val. The
// validation split is a twentieth of train: the images with crc32(id) % 20 == 0, where id is written in
// decimal.
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
  std::string file;            ///< name within the folder of images
  std::int64_t category = -1;  ///< index in `categories`; -1: the image has no annotation
};

struct CocoInstances {
  std::vector<CocoCategory> categories;  ///< sorted by id
  std::vector<CocoImage> images;         ///< by id
};

/// Parses an instances_*.json. Throws Error, with a message that begins with `path`, for content that is not
/// JSON, a missing key, a duplicate id, and an annotation of an image or category that the file does not
/// list.
CocoInstances parse_coco_instances(std::string_view content, const std::string& path);

/// Parses a captions_*.json: the captions of each image by image id, in the order of the file. Throws the
/// same errors as parse_coco_instances.
std::map<std::int64_t, std::vector<std::string>> parse_coco_captions(std::string_view content,
                                                                     const std::string& path);

struct CocoOptions {
  std::string directory;
  std::int64_t side = 64;        ///< images become RGB, their middle squares at `side` x `side` pixels
  bool images = true;            ///< false: read no images
  bool texts = true;             ///< true: one example per caption; false: one example per image
  bool captions = false;         ///< without texts: still read the captions, as references
  bool supercategories = false;  ///< classes are the 12 supercategories, not the 80 categories
};

/// Reads the data set: examples are ordered by image id, classes by category id. Throws Error for a missing
/// or malformed file of annotations. An image that is missing or cannot be read throws Error, too, or is
/// skipped if `bad` says so.
ImageDataset read_coco(const CocoOptions& options, BadInputs& bad);

}  // namespace conclave
