#include "data/image_folder.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <filesystem>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "data/file.h"
#include "data/image_transform.h"
#include "data/stable_bucket.h"

namespace conclave {
namespace {

namespace fs = std::filesystem;

std::vector<std::string> names_in(const std::string& folder, fs::file_type type) {
  std::vector<std::string> names;
  std::error_code error;
  fs::directory_iterator entry(folder, error);
  for (; !error && entry != fs::directory_iterator(); entry.increment(error)) {
    std::string name = entry->path().filename().string();
    std::error_code ignored;  // of a link to nowhere, which is of no type
    if (!name.starts_with('.') && entry->status(ignored).type() == type) names.push_back(std::move(name));
  }
  require(!error, "{}: cannot be listed ({}); data.path is a folder of a folder of images for each class",
          folder, error.message());
  std::ranges::sort(names);
  return names;
}

bool is_folder(const std::string& path) {
  std::error_code ignored;  // what cannot be looked at is none
  return fs::is_directory(path, ignored);
}

bool is_image(const std::string& name) {
  std::string extension = fs::path(name).extension().string();
  for (char& c : extension)
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  return extension == ".png" || extension == ".jpg" || extension == ".jpeg";
}

// Calls visit(path within `folder`, class) for each image of the classes' folders in `folder`.
template <class Visit>
void for_each_image(const std::string& folder, const std::vector<std::string>& classes, Visit visit) {
  for (const std::string& name : names_in(folder, fs::file_type::directory)) {
    const auto found = std::ranges::find(classes, name);
    require(found != classes.end(), "{}/{}: a class without training images; there are: {}", folder, name,
            fmt::join(classes, ", "));
    std::vector<std::string> files = names_in(folder + "/" + name, fs::file_type::regular);
    std::erase_if(files, [](const std::string& file) { return !is_image(file); });
    require(!files.empty(), "{}/{}: no image (.png, .jpg or .jpeg) in this folder", folder, name);
    for (const std::string& file : files)
      visit(name + "/" + file, static_cast<std::int32_t>(found - classes.begin()));
  }
}

}  // namespace

ImageDataset read_image_folder(const std::string& folder, std::int64_t side, BadInputs& bad) {
  // A class of trains has no folders in its own.
  const bool split =
      is_folder(folder + "/train") && !names_in(folder + "/train", fs::file_type::directory).empty();
  const std::string train = split ? folder + "/train" : folder;
  ImageDataset data;
  data.class_names = names_in(train, fs::file_type::directory);
  require(!data.class_names.empty(), "{}: no folder of images for each class", train);
  for (const std::string& name : data.class_names)
    require(find_invalid_utf8(name) == std::string_view::npos,
            "{}/{}: a folder's name is its class's, and this one is not UTF-8; rename it", train, name);

  const auto read = [&](const std::string& path, std::int32_t label, ImageSplit& to) {
    bad.attempt([&] {
      to.images.append(read_image(path, {side, side, 3}, "is the data set complete?"), path);
      to.examples.push_back({"", label});
    });
  };
  if (split) {
    for (const auto& [name, to] : {std::pair("train", &data.train), std::pair("validation", &data.validation),
                                   std::pair("val", &data.validation), std::pair("test", &data.test)}) {
      const std::string part = folder + "/" + name;
      if (is_folder(part))
        for_each_image(part, data.class_names, [&](const std::string& image, std::int32_t label) {
          read(part + "/" + image, label, *to);
        });
    }
  } else {
    for_each_image(folder, data.class_names, [&](const std::string& image, std::int32_t label) {
      const std::uint32_t bucket = bucket_of(image, 10);
      read(folder + "/" + image, label, bucket == 9 ? data.test : bucket == 8 ? data.validation : data.train);
    });
  }
  require(!data.train.examples.empty(), "{}: no image to train on", train);
  return data;
}

}  // namespace conclave
