// The data sources that data.source can name, a row each. The recipe's checks and documentation, the models
// and the reader of examples all use this table. To add a data set, add a row in data_sources.cpp.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "data/image.h"

namespace conclave {

class BadInputs;
struct DataRecipe;
struct ImageDataset;

struct DataSource {
  /// What a reader needs of a recipe.
  struct Wanted {
    const DataRecipe& data;
    std::int64_t side;  ///< pixels a side of an image; 0: the images' own size
    bool captions;      ///< read what images show even if the examples have no texts
  };

  std::string_view name;         ///< value of data.source
  std::string_view description;  ///< part of the documentation of data.source: "WordNet's glosses"
  /// What examples can have. Where it is both, data.inputs selects one of the two, or both.
  bool texts, images;
  /// The examples may have a text or an image that data.inputs does not select; the caller removes it.
  ImageDataset (*read)(const Wanted& wanted, BadInputs& bad);
  std::string_view needs_path = {};            ///< what data.path must be; "": it may be empty
  std::vector<std::string_view> classes = {};  ///< values of data.classes; empty: the key is not read
  /// Keys of [data] that are a mistake with sources that do not list them.
  std::vector<std::string_view> keys = {};
  bool skips_bad =
      false;  ///< leaves out what cannot be read and tells BadInputs, if data.skip_bad asks for it
  bool sizes_differ = false;   ///< of images, so image.size must be given
  bool shares_images = false;  ///< several examples may have the same image
  bool is_glue = false;        ///< data.task selects a task of GLUE, which has metrics of its own
  /// Around what an image shows. Photographs have no such background; black adds no invented content.
  Rgb background = kBlackBackground;

  bool has_both() const { return texts && images; }
  bool reads(std::string_view key) const;  ///< `key` is one of `keys`
};

const std::vector<DataSource>& data_sources();
/// The source called `name`. Throws Error with the list of names if there is none.
const DataSource& data_source(std::string_view name);

std::vector<std::string_view> data_source_names();
/// The names of the sources for which `holds` is true, as documentation lists them: "emoji, coco".
std::string data_sources_that(const std::function<bool(const DataSource&)>& holds);
/// The values that data.classes may have for some source.
std::vector<std::string_view> data_source_classes();
/// All descriptions: "WordNet's glosses, a table of texts and labels, [...] or [...]".
std::string data_source_descriptions();

}  // namespace conclave
