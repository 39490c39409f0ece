#include "recipes/settings/data_sources.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <span>
#include <utility>

#include "data/coco.h"
#include "data/emoji.h"
#include "data/fashion_gloss.h"
#include "data/fashion_mnist.h"
#include "data/glue.h"
#include "data/image_folder.h"
#include "data/image_transform.h"
#include "data/text_table.h"
#include "data/wordnet.h"
#include "recipes/settings/recipe.h"

namespace conclave {
namespace {

using Wanted = DataSource::Wanted;

constexpr std::int64_t kEmojiSide = 32;

ImageDataset from_texts(TextDataset texts) {
  return {std::move(texts.class_names),
          {std::move(texts.train), {}},
          {std::move(texts.validation), {}},
          {std::move(texts.test), {}}};
}

void resize(ImageColumn& images, std::int64_t side) {
  if (images.size() == 0 || (images.shape.height == side && images.shape.width == side)) return;
  Resizer resizer(images.shape, side, side);
  const std::int64_t count = images.size();
  std::vector<std::uint8_t> pixels(static_cast<std::size_t>(count * resizer.shape().size()));
  for (std::int64_t i = 0; i < count; ++i)
    resizer.resize(images.image(i),
                   std::span(pixels).subspan(static_cast<std::size_t>(i * resizer.shape().size()),
                                             static_cast<std::size_t>(resizer.shape().size())));
  images.shape = resizer.shape();
  images.pixels = std::move(pixels);
}

ImageDataset resized(ImageDataset data, std::int64_t side) {
  if (side > 0)
    for (ImageSplit* split : {&data.train, &data.validation, &data.test}) resize(split->images, side);
  return data;
}

std::string path_or(const DataRecipe& data, const char* standard) {
  return data.path.empty() ? standard : data.path;
}

ImageDataset from_wordnet(const Wanted& wanted, BadInputs&) {
  const DataRecipe& data = wanted.data;
  return from_texts(
      read_wordnet(path_or(data, kWordNetDirectory), data.classes, data.synset_words, data.domain));
}

ImageDataset from_table(const Wanted& wanted, BadInputs& bad) {
  const DataRecipe& data = wanted.data;
  return from_texts(read_text_table({.path = data.path,
                                     .train = data.train,
                                     .validation = data.validation,
                                     .test = data.test,
                                     .text_column = data.text_column,
                                     .label_column = data.label_column,
                                     .domain_column = data.domain_column,
                                     .client_column = data.client_column},
                                    bad));
}

ImageDataset from_coco(const Wanted& wanted, BadInputs& bad) {
  const DataRecipe& data = wanted.data;
  return read_coco({.directory = data.path,
                    .side = wanted.side,
                    .images = data.has_images(),
                    .texts = data.has_texts(),
                    .captions = wanted.captions,
                    .supercategories = data.classes == "supercategory"},
                   bad);
}

ImageDataset from_emoji(const Wanted& wanted, BadInputs& bad) {
  return read_emoji_dataset({.side = wanted.side > 0 ? wanted.side : kEmojiSide,
                             .background = data_source("emoji").background,
                             .subgroups = wanted.data.classes == "subgroup"},
                            bad);
}

ImageDataset from_fashion_gloss(const Wanted& wanted, BadInputs&) {
  return resized(read_fashion_gloss(path_or(wanted.data, kFashionMnistDirectory),
                                    path_or(wanted.data, kWordNetDirectory)),
                 wanted.side);
}

}  // namespace

const std::vector<DataSource>& data_sources() {
  static const std::vector<DataSource> sources{
      {.name = "wordnet",
       .description = "WordNet's glosses",
       .texts = true,
       .images = false,
       .read = from_wordnet,
       .classes = {"noun", "all"},
       .keys = {"synset_words", "domain"}},
      {.name = "table",
       .description = "a table of texts and labels",
       .texts = true,
       .images = false,
       .read = from_table,
       .keys = {"train", "validation", "test", "domain_column", "client_column"},
       .skips_bad = true},
      {.name = "glue",
       .description = "a task of GLUE",
       .texts = true,
       .images = false,
       .read = [](const Wanted& wanted,
                  BadInputs& bad) { return from_texts(read_glue(wanted.data.path, wanted.data.task, bad)); },
       .needs_path = "the folder of GLUE's tasks (CoLA, SST-2, ...), or of the task's train.tsv",
       .skips_bad = true,
       .is_glue = true},
      {.name = "fashion_mnist",
       .description = "Fashion-MNIST's images",
       .texts = false,
       .images = true,
       .read =
           [](const Wanted& wanted, BadInputs&) {
             return resized(read_fashion_mnist(path_or(wanted.data, kFashionMnistDirectory)), wanted.side);
           }},
      {.name = "image_folder",
       .description = "a folder of images for each class",
       .texts = false,
       .images = true,
       .read = [](const Wanted& wanted,
                  BadInputs& bad) { return read_image_folder(wanted.data.path, wanted.side, bad); },
       .needs_path = "a folder of a folder of images for each class",
       .skips_bad = true,
       .sizes_differ = true},
      {.name = "emoji",
       .description = "emoji with their names",
       .texts = true,
       .images = true,
       .read = from_emoji,
       .classes = {"group", "subgroup"},
       .skips_bad = true,
       .background = kWhiteBackground},
      {.name = "coco",
       .description = "COCO's images with their captions",
       .texts = true,
       .images = true,
       .read = from_coco,
       .needs_path = "the folder with COCO's annotations, train2017 and val2017",
       .classes = {"category", "supercategory"},
       .skips_bad = true,
       .sizes_differ = true,
       .shares_images = true},
      {.name = "fashion_gloss",
       .description = "Fashion-MNIST's images with WordNet definitions, some of which describe the image and "
                      "some do not",
       .texts = true,
       .images = true,
       .read = from_fashion_gloss}};
  return sources;
}

bool DataSource::reads(std::string_view key) const { return std::ranges::find(keys, key) != keys.end(); }

const DataSource& data_source(std::string_view name) {
  const auto& sources = data_sources();
  const auto found = std::ranges::find(sources, name, &DataSource::name);
  if (found == sources.end())
    fail("no data source is named '{}'; there are {}", name, fmt::join(data_source_names(), ", "));
  return *found;
}

std::vector<std::string_view> data_source_names() {
  std::vector<std::string_view> names;
  for (const DataSource& source : data_sources()) names.push_back(source.name);
  return names;
}

std::string data_sources_that(const std::function<bool(const DataSource&)>& holds) {
  std::string names;
  for (const DataSource& source : data_sources())
    if (holds(source)) names.append(names.empty() ? "" : ", ").append(source.name);
  return names;
}

std::vector<std::string_view> data_source_classes() {
  std::vector<std::string_view> classes;
  for (const DataSource& source : data_sources())
    for (const std::string_view value : source.classes)
      if (std::ranges::find(classes, value) == classes.end()) classes.push_back(value);
  return classes;
}

std::string data_source_descriptions() {
  const auto& sources = data_sources();
  std::string all;
  for (std::size_t i = 0; i < sources.size(); ++i)
    all.append(i == 0 ? "" : i + 1 == sources.size() ? ", or " : ", ").append(sources[i].description);
  return all;
}

}  // namespace conclave
