#include "data/coco.h"

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <system_error>
#include <utility>

#include "core/file.h"
#include "data/image_transform.h"
#include "data/stable_bucket.h"

namespace conclave {
namespace {

using nlohmann::json;

// An object in one of the file's lists, with its position for messages.
class Entry {
 public:
  Entry(const json& object, std::string place) : object_(object), place_(std::move(place)) {}

  const std::string& place() const { return place_; }
  std::int64_t id(const char* key) const {
    const json& value = field(key);
    require(value.is_number_integer(), "{}: `{}` is a {}, expected an integer", place_, key,
            value.is_number() ? "fraction" : value.type_name());
    return value.get<std::int64_t>();
  }
  std::string text(const char* key) const {
    const json& value = field(key);
    require(value.is_string(), "{}: `{}` is a {}, expected a string", place_, key, value.type_name());
    return value.get<std::string>();
  }
  double area() const {
    const json& value = field("area");
    require(value.is_number() && value.get<double>() >= 0, "{}: `area` is {}, expected a number of pixels",
            place_, value.is_number() ? "negative" : value.type_name());
    return value.get<double>();
  }

 private:
  const json& field(const char* key) const {
    const auto found = object_.find(key);
    require(found != object_.end(), "{}: no key `{}`", place_, key);
    return *found;
  }

  const json& object_;
  std::string place_;
};

// Calls visit(list, entry) for each object in the file's top-level lists, in order. Objects are discarded
// after the visit because COCO has a million of them, and their outlines (`segmentation`), nine tenths of the
// file, are not kept at all. Each name in `lists` must be present.
template <class Visit>
void for_each_entry(std::string_view content, const std::string& path,
                    std::initializer_list<const char*> lists, Visit visit) {
  std::string list;
  std::int64_t number = 0;
  const json::parser_callback_t callback = [&](int depth, json::parse_event_t event, json& parsed) {
    if (event == json::parse_event_t::key) {
      if (depth == 1) list = parsed.get<std::string>(), number = 0;
      return depth != 3 || parsed != "segmentation";
    }
    if (event != json::parse_event_t::object_end || depth != 2) return true;
    visit(list, Entry(parsed, fmt::format("{}: {}[{}]", path, list, number++)));
    return false;
  };
  json rest;
  try {
    rest = json::parse(content, callback);
  } catch (const json::exception& error) {
    fail("{}: not JSON ({}); take the file from COCO again", path, error.what());
  }
  require(rest.is_object(), "{}: a JSON {}, expected an object", path, rest.type_name());
  for (const char* name : lists)
    require(rest.contains(name) && rest[name].is_array() && rest[name].empty(),
            "{}: no `{}` that is a list of objects; is this a file of COCO's annotations?", path, name);
}

template <class T>
void add(std::map<std::int64_t, T>& entries, T value, const Entry& entry) {
  const std::int64_t id = entry.id("id");
  require(entries.emplace(id, std::move(value)).second, "{}: id {} is used more than once", entry.place(),
          id);
}

// The entry with an id that an annotation refers to.
template <class T>
T& known(std::map<std::int64_t, T>& entries, std::int64_t id, const std::string& path, const char* what) {
  const auto found = entries.find(id);
  require(found != entries.end(), "{}: an annotation of {} {}, which the file does not list", path, what, id);
  return found->second;
}

// The year in the names of the files that are present.
std::string find_year(const std::string& directory) {
  for (const char* year : {"2017", "2014"})
    if (std::error_code ignored; std::filesystem::exists(
            fmt::format("{}/annotations/instances_train{}.json", directory, year), ignored))
      return year;
  fail(
      "{}: neither annotations/instances_train2017.json nor that of 2014; data.path is the folder that has "
      "COCO's annotations, train2017 and val2017",
      directory);
}

}  // namespace

CocoInstances parse_coco_instances(std::string_view content, const std::string& path) {
  std::map<std::int64_t, CocoCategory> categories;
  std::map<std::int64_t, CocoImage> images;
  std::map<std::int64_t, std::map<std::int64_t, double>> areas;  // [image][category]
  for_each_entry(content, path, {"images", "annotations", "categories"},
                 [&](const std::string& list, const Entry& entry) {
                   if (list == "images")
                     add(images, CocoImage{entry.id("id"), entry.text("file_name")}, entry);
                   else if (list == "categories")
                     add(categories,
                         CocoCategory{entry.id("id"), entry.text("name"), entry.text("supercategory")},
                         entry);
                   else if (list == "annotations")
                     areas[entry.id("image_id")][entry.id("category_id")] += entry.area();
                 });
  CocoInstances found;
  std::map<std::int64_t, std::int64_t> places;  // index of each category by id
  for (auto& [id, category] : categories) {
    places.emplace(id, static_cast<std::int64_t>(found.categories.size()));
    found.categories.push_back(std::move(category));
  }
  for (const auto& [id, of_categories] : areas) {
    CocoImage& image = known(images, id, path, "image");
    double largest = -1;
    for (const auto& [category, area] : of_categories) {
      const std::int64_t place = known(places, category, path, "category");
      if (area > largest) image.category = place;
      largest = std::max(largest, area);
    }
  }
  for (auto& [id, image] : images) found.images.push_back(std::move(image));
  return found;
}

std::map<std::int64_t, std::vector<std::string>> parse_coco_captions(std::string_view content,
                                                                     const std::string& path) {
  std::map<std::int64_t, std::vector<std::string>> images, captions;
  for_each_entry(content, path, {"images", "annotations"}, [&](const std::string& list, const Entry& entry) {
    if (list == "images")
      add(images, {}, entry);
    else if (list == "annotations")
      captions[entry.id("image_id")].push_back(entry.text("caption"));
  });
  for (auto& [id, texts] : captions) known(images, id, path, "image") = std::move(texts);
  return images;
}

ImageDataset read_coco(const CocoOptions& options, BadInputs& bad) {
  const std::string year = find_year(options.directory);
  const auto read = [&](const std::string& name, auto parse) {
    const std::string path = fmt::format("{}/annotations/{}{}.json", options.directory, name, year);
    return parse(read_file(path, "take it from COCO's annotations"), path);
  };
  ImageDataset data;
  for (const std::string part : {"train", "val"}) {
    const CocoInstances instances = read("instances_" + part, parse_coco_instances);
    std::vector<std::string> class_names;
    std::vector<std::int32_t> labels;  // class of each category
    for (const CocoCategory& category : instances.categories) {
      const std::string& name = options.supercategories ? category.supercategory : category.name;
      const auto found = std::ranges::find(class_names, name);
      labels.push_back(static_cast<std::int32_t>(found - class_names.begin()));
      if (found == class_names.end()) class_names.push_back(name);
    }
    if (part == "train") data.class_names = class_names;
    require(class_names == data.class_names,
            "{}: instances_train{} and instances_val{} list different categories", options.directory, year,
            year);

    std::map<std::int64_t, std::vector<std::string>> captions;
    if (options.texts || options.captions) captions = read("captions_" + part, parse_coco_captions);
    for (const CocoImage& image : instances.images) {
      const std::vector<std::string>& texts = captions[image.id];
      if (image.category < 0 || (!options.images && texts.empty())) continue;
      ImageSplit& split = part == "val"                                  ? data.test
                          : bucket_of(std::to_string(image.id), 20) == 0 ? data.validation
                                                                         : data.train;
      bad.attempt([&] {
        if (options.images) {
          const std::string file = fmt::format("{}/{}{}/{}", options.directory, part, year, image.file);
          split.images.append(read_image(file, {options.side, options.side, 3}, "is the data set complete?"),
                              file);
          const std::int32_t row = split.images.rows.back();
          const std::size_t examples = options.texts ? std::max<std::size_t>(texts.size(), 1) : 1;
          split.images.rows.resize(split.examples.size() + examples, row);
        }
        const std::int32_t label = labels[static_cast<std::size_t>(image.category)];
        if (texts.empty() || !options.texts) {
          split.examples.push_back({.text = "", .label = label, .captions = texts});
        } else {
          for (const std::string& text : texts)
            split.examples.push_back({.text = text, .label = label, .captions = {text}});
        }
      });
    }
  }
  require(!data.train.examples.empty(), "{}: no image to train on has an annotation{}", options.directory,
          bad.all_left_out());
  return data;
}

}  // namespace conclave
