#include "recipes/settings/recipe.h"

#include <filesystem>

#include "core/file.h"
#include "parallel/communicator.h"
#include "recipes/settings/recipe_fields.h"
#include "recipes/settings/recipe_text.h"
#include "recipes/settings/settings_reader.h"
#include "recipes/settings/settings_text.h"

namespace conclave {
namespace {

using namespace recipe_text;

/// The end of a message about a `path` that is not a readable file: the recipes beside it, else those in
/// recipes/.
std::string recipes_near(const std::filesystem::path& path) {
  for (std::filesystem::path folder : {path, path.parent_path(), std::filesystem::path("recipes")}) {
    if (folder.empty()) folder = ".";
    std::vector<std::string> found;
    std::error_code error;
    for (std::filesystem::directory_iterator entry(folder, error), end; !error && entry != end;
         entry.increment(error))
      if (entry->path().extension() == ".toml")
        found.push_back(readable(entry->path().lexically_normal().string()));
    if (found.empty()) continue;
    std::ranges::sort(found);
    if (found.size() > 20) found.resize(20);
    return fmt::format("; recipes there are: {}", fmt::join(found, ", "));
  }
  return "; no *.toml is near it";
}

}  // namespace

std::string settings::file_text(const std::string& path, Communicator* world) {
  if (world) return from_first<RecipeError>(*world, [&] { return file_text(path, nullptr); });
  std::error_code error;
  const auto status = std::filesystem::status(path, error);
  if (!std::filesystem::exists(status))
    throw RecipeError(fmt::format("{}: no such file{}", path, recipes_near(path)));
  if (std::filesystem::is_directory(status))
    throw RecipeError(fmt::format("{}: is a folder, not a recipe{}", path, recipes_near(path)));
  try {
    return read_file(path, "", settings::kMostBytes);
  } catch (const Error& problem) {
    throw RecipeError(problem.what());
  }
}

Recipe parse_recipe(const std::string& text, const std::string& name,
                    const std::vector<std::string>& overrides) {
  auto recipe = settings::parse<Recipe>(text, name, overrides);
  check_recipe(recipe, name);
  return recipe;
}

Recipe read_recipe(const std::string& path, const std::vector<std::string>& overrides, Communicator* world) {
  Recipe recipe = parse_recipe(settings::file_text(path, world), path, overrides);
  check_trained(recipe, path);
  check_meant(recipe, path);
  return recipe;
}

}  // namespace conclave
