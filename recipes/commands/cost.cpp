#include <fmt/format.h>

#include <algorithm>

#include "recipes/commands/commands.h"
#include "recipes/corpus/corpus.h"
#include "recipes/models/loaded_model.h"
#include "recipes/settings/plugins.h"

namespace conclave::commands {
namespace {

void print(const Task& task, const ModelSizes& sizes, const std::string& path, Index length) {
  const bool with_image = task.image_tokens() > 0;
  std::string example;
  if (sizes.vocabulary > 0) example = fmt::format("a text of {} tokens", length);
  if (with_image)
    example += fmt::format("{}an image of {} x {} pixels in {} channels", example.empty() ? "" : " with ",
                           sizes.image.height, sizes.image.width, sizes.image.channels);
  fmt::print("{}, to {}: parameters, and FLOPs of the forward pass of {}\n", path, task.name(), example);

  std::vector<Cost> costs = task.costs(length);
  Cost total{"total"};
  std::size_t widest = 0;
  for (const auto& [name, parameters, flops] : costs) {
    total.parameters += parameters;
    total.flops += flops;
    widest = std::max(widest, name.size());
  }
  costs.push_back(total);
  fmt::print("{:<{}} {:>14}         {:>16}\n", "", widest, "parameters", "FLOPs");
  for (const auto& [name, parameters, flops] : costs)
    fmt::print("{:<{}} {:>14} {:>5.1f}% {:>17.0f} {:>5.1f}%\n", name, widest, parameters,
               100 * static_cast<double>(parameters) / static_cast<double>(total.parameters), flops,
               100 * flops / total.flops);
}

void print(const Model& model, const std::string& path, Index longest, Index length) {
  const ModelSizes& sizes = model.sizes();
  require(length == 0 || sizes.vocabulary > 0, "--length is of texts, and {} has a model of images", path);
  require(length <= longest, "--length {}: the model reads at most data.max_length = {} tokens of a text",
          length, longest);
  for (const Task* task : model.tasks()) print(*task, sizes, path, length == 0 ? longest : length);
}

}  // namespace

int inspect_cost(const CostArguments& arguments, const ProcessEnvironment& surroundings,
                 const MpiSession& session) {
  const ProcessGrid grid(session.world(), 0);
  const auto show = [&](const Model& model, const Recipe& recipe) {
    if (grid.world().rank() == 0) print(model, arguments.path, recipe.data.max_length, arguments.length);
  };
  if (!arguments.path.ends_with(".toml")) {
    LoadedModel loaded(arguments.path, grid, arguments.overrides);
    show(loaded.model(), loaded.recipe());
    return 0;
  }
  Recipe recipe = read_recipe(arguments.path, arguments.overrides, &grid.world());
  load_plugins(recipe, arguments.path, &grid.world());
  const Corpus corpus = load_corpus(recipe, grid.world(), surroundings.cache_directory);
  show(Model(recipe, corpus.sizes(recipe.data), grid), recipe);
  return 0;
}

}  // namespace conclave::commands
