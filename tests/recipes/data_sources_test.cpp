#include "recipes/settings/data_sources.h"

#include <catch2/catch.hpp>
#include <set>

#include "data/bad_inputs.h"
#include "data/dataset.h"
#include "recipes/settings/recipe.h"
#include "tests/data/temporary_directory.h"

namespace conclave {
namespace {

// A recipe of the source, with no more than what the source needs.
std::string least_recipe(const DataSource& source, const std::string& path) {
  std::string text = fmt::format("[data]\nsource = \"{}\"\n", source.name);
  if (!source.needs_path.empty() || source.reads("train")) text += fmt::format("path = \"{}\"\n", path);
  if (!source.classes.empty()) text += fmt::format("classes = \"{}\"\n", source.classes.back());
  return text + (source.sizes_differ ? "[image]\nsize = 8\n" : "");
}

}  // namespace

TEST_CASE("a recipe may name every data source, which then has a reader", "[data_sources]") {
  const TemporaryDirectory folder;
  const std::string none = folder.path() + "/none.csv";
  std::set<std::string_view> names;
  for (const DataSource& source : data_sources()) {
    CAPTURE(std::string(source.name));
    CHECK(names.insert(source.name).second);
    CHECK(&data_source(source.name) == &source);
    CHECK((source.texts || source.images));
    CHECK_FALSE(source.description.empty());
    Recipe recipe = parse_recipe(least_recipe(source, none), "q.toml");
    CHECK(recipe.data.has_texts() == source.texts);
    CHECK(recipe.data.has_images() == source.images);
    if (source.has_both()) {
      recipe.data.inputs = "text";
      CHECK((recipe.data.has_texts() && !recipe.data.has_images()));
      recipe.data.inputs = "image";
      CHECK((recipe.data.has_images() && !recipe.data.has_texts()));
    }
    REQUIRE(source.read != nullptr);
    if (source.name == "emoji") continue;  // it reads the system's files, whatever the path
    recipe.data.path = none;
    BadInputs bad;
    CHECK_THAT(error_of([&] {
                 source.read({.data = recipe.data, .side = recipe.image.size, .captions = false}, bad);
               }),
               Catch::Matchers::Contains(none));
  }
}

TEST_CASE("the documentation of keys lists the sources that the table says", "[data_sources]") {
  CHECK(data_sources_that(&DataSource::has_both) == "emoji, coco, fashion_gloss");
  CHECK(data_sources_that(&DataSource::skips_bad) == "table, glue, image_folder, emoji, coco");
  const std::string shown = to_toml(Recipe(), true);
  CHECK_THAT(shown, Catch::Matchers::Contains("emoji, coco, fashion_gloss: what the model is shown"));
}

TEST_CASE("a source that is not in the table is an error, and is not read as another", "[data_sources]") {
  DataRecipe data;
  data.source = "tabel";
  for (const auto& use : {&DataRecipe::has_images, &DataRecipe::has_texts, &DataRecipe::may_have_both})
    CHECK(error_of([&] { (data.*use)(); }) ==
          "no data source is named 'tabel'; there are wordnet, table, glue, fashion_mnist, image_folder, "
          "emoji, "
          "coco, fashion_gloss");
}

}  // namespace conclave
