#include "data/image_folder.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <filesystem>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "core/file.h"
#include "data/image_transform.h"
#include "data/stable_bucket.h"

namespace conclave {
namespace {

namespace fs = std::filesystem;

// The names in a folder, sorted, without hidden ones.
struct Listing {
  std::vector<std::string> files, folders;
};

Listing list(const std::string& folder) {
  Listing names;
  std::error_code error;
  fs::directory_iterator entry(folder, error);
  for (; !error && entry != fs::directory_iterator(); entry.increment(error)) {
    std::string name = entry->path().filename().string();
    std::error_code ignored;  // a dangling link has no type and is skipped
    const fs::file_type type = entry->status(ignored).type();
    if (name.starts_with('.')) continue;
    if (type == fs::file_type::regular) names.files.push_back(std::move(name));
    if (type == fs::file_type::directory) names.folders.push_back(std::move(name));
  }
  require(!error, "{}: cannot be listed ({}); data.path is a folder of a folder of images for each class",
          folder, error.message());
  std::ranges::sort(names.files);
  std::ranges::sort(names.folders);
  return names;
}

bool is_folder(const std::string& path) {
  std::error_code ignored;  // a path that cannot be read is not a folder
  return fs::is_directory(path, ignored);
}

bool is_image(const std::string& name) {
  std::string extension = fs::path(name).extension().string();
  for (char& c : extension)
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  return extension == ".png" || extension == ".jpg" || extension == ".jpeg";
}

// Paths, within the data's folder, of what is not read.
struct LeftOut {
  std::vector<std::string> files, folders, images, splits;
};

void warn_of(const LeftOut& left, const std::string& folder, BadInputs& bad) {
  std::vector<std::string> kinds;
  const auto add = [&](const std::vector<std::string>& names, std::string_view one,
                       std::string_view several) {
    if (!names.empty())
      kinds.push_back(
          fmt::format("{} {} ({})", names.size(), names.size() == 1 ? one : several, some_of(names)));
  };
  add(left.files, "file that is neither PNG nor JPEG by name", "files that are neither PNG nor JPEG by name");
  add(left.folders, "folder within a class", "folders within a class");
  add(left.images, "image outside of the classes' folders", "images outside of the classes' folders");
  add(left.splits, "folder beside train whose name is no split's",
      "folders beside train whose names are no split's");
  if (!kinds.empty()) bad.warn(fmt::format("{}: left out: {}", folder, fmt::join(kinds, ", and ")));
}

// Calls visit(path within `folder``part`, class) for each image in the class folders of `folder``part`.
template <class Visit>
void for_each_image(const std::string& folder, const std::string& part,
                    const std::vector<std::string>& classes, LeftOut& left, Visit visit) {
  const Listing within = list(folder + part);
  const auto leave_out = [&](std::vector<std::string>& among, const std::string& path) {
    among.push_back((part + "/" + path).substr(1));
  };
  for (const std::string& file : within.files)
    if (is_image(file)) leave_out(left.images, file);
  for (const std::string& name : within.folders) {
    const auto found = std::ranges::find(classes, name);
    require(found != classes.end(), "{}{}/{}: a class without training images; there are: {}", folder, part,
            name, fmt::join(classes, ", "));
    const Listing of_class = list(folder + part + "/" + name);
    bool any = false;
    for (const std::string& file : of_class.files) {
      any |= is_image(file);
      if (is_image(file))
        visit(name + "/" + file, static_cast<std::int32_t>(found - classes.begin()));
      else
        leave_out(left.files, name + "/" + file);
    }
    require(any, "{}{}/{}: no image (.png, .jpg or .jpeg) in this folder", folder, part, name);
    for (const std::string& inner : of_class.folders) leave_out(left.folders, name + "/" + inner);
  }
}

}  // namespace

ImageDataset read_image_folder(const std::string& folder, std::int64_t side, BadInputs& bad) {
  // A class may itself be called "train"; its folder then contains images but no folders.
  const bool split = is_folder(folder + "/train") && !list(folder + "/train").folders.empty();
  const std::string train = split ? folder + "/train" : folder;
  ImageDataset data;
  data.class_names = list(train).folders;
  require(!data.class_names.empty(), "{}: no folder of images for each class", train);
  for (const std::string& name : data.class_names)
    require(find_invalid_utf8(name) == std::string_view::npos,
            "{}/{}: a folder's name is its class's, and this one is not UTF-8; rename it", train, name);

  LeftOut left;
  const auto read = [&](const std::string& path, std::int32_t label, ImageSplit& to) {
    bad.attempt([&] {
      to.images.append(read_image(path, {side, side, 3}, "is the data set complete?"), path);
      to.examples.push_back({"", label});
    });
  };
  if (split) {
    std::vector<std::string> others = list(folder).folders;
    for (const auto& [name, to] : {std::pair("train", &data.train), std::pair("validation", &data.validation),
                                   std::pair("val", &data.validation), std::pair("valid", &data.validation),
                                   std::pair("dev", &data.validation), std::pair("test", &data.test)}) {
      if (std::erase(others, name) == 0) continue;
      const std::string part = std::string("/") + name;
      for_each_image(folder, part, data.class_names, left, [&](const std::string& image, std::int32_t label) {
        read(folder + part + "/" + image, label, *to);
      });
    }
    left.splits = std::move(others);
  } else {
    for_each_image(folder, "", data.class_names, left, [&](const std::string& image, std::int32_t label) {
      const std::uint32_t bucket = bucket_of(image, 10);
      read(folder + "/" + image, label, bucket == 9 ? data.test : bucket == 8 ? data.validation : data.train);
    });
  }
  require(!data.train.examples.empty(), "{}: no image to train on{}", train, bad.all_left_out());
  warn_of(left, folder, bad);
  if (const auto untrained = untrained_classes(data.class_names, data.train.examples); !untrained.empty())
    bad.warn(fmt::format("{}: {} of {} classes have no training image{}: {}", folder, untrained.size(),
                         data.class_names.size(),
                         split ? ""
                               : ", because a hash of its name assigns each image to a split; to choose the "
                                 "splits yourself, sort the images into folders train, validation and test",
                         some_of(untrained)));
  return data;
}

}  // namespace conclave
