#include "recipes/models/model.h"

namespace conclave {
namespace {

Index drawn_rows(const Recipe& recipe, const ImageShape& image) {
  return recipe.tasks.trains(&TaskTraits::draws) ? Patches{image, recipe.generate.patch}.count() : 0;
}

}  // namespace

Model::Model(const Recipe& recipe, const ModelSizes& sizes, const ProcessGrid& grid)
    : sizes_(sizes),
      quantization_(make_quantization(recipe.quantization)),
      trunk_(recipe, sizes, recipe.shows_images(), drawn_rows(recipe, sizes.image), grid,
             quantizes(recipe.quantization, "experts") ? quantization_.get() : nullptr) {
  add_module("", trunk_);
  const auto add = [&](auto& task, const std::string& name) {
    task.emplace(recipe, sizes, trunk_);
    add_module(name, *task);
    tasks_.push_back(&*task);
  };
  for (const TaskKind kind : recipe.tasks.trained()) switch (kind) {
      case TaskKind::classify:
        add(classifier_, "");
        break;
      case TaskKind::caption:
        add(captioner_, "caption");
        break;
      case TaskKind::generate:
        add(generator_, "generate");
        break;
      case TaskKind::embed:  // answered by the classifier
        break;
    }
  if (!quantization_) return;
  quantize_layers(trunk_, recipe.quantization, *quantization_);
  if (quantizes(recipe.quantization, "heads"))
    for (Task* task : tasks_) quantize_layers(*task, recipe.quantization, *quantization_);
}

}  // namespace conclave
