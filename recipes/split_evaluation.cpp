#include "recipes/split_evaluation.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <utility>

#include "recipes/recipe_text.h"

namespace conclave {
namespace {

Task* task_of(Model& model, const std::string& name) {
  std::string names;
  for (Task* task : model.tasks()) {
    if (name.empty() || task->name() == name) return task;
    names += (names.empty() ? "" : ", ") + task->name();
  }
  fail("--task {}: the model was trained to {}", name, names);
}

// Labels by their classes' numbers in the model, which may know more of them than the data have.
void number_as(const std::vector<std::string>& of_model, const std::string& checkpoint, ImageDataset& data,
               ImageSplit& split) {
  if (data.class_names == of_model) return;
  std::vector<std::int32_t> number;
  for (const std::string& name : data.class_names) {
    const auto found = std::ranges::find(of_model, name);
    require(found != of_model.end(), "{}: the data have a class \"{}\", and it was trained on: {}",
            checkpoint, recipe_text::readable(name), fmt::join(of_model, ", "));
    number.push_back(static_cast<std::int32_t>(found - of_model.begin()));
  }
  for (TextExample& example : split.examples) example.label = number[static_cast<std::size_t>(example.label)];
  data.class_names = of_model;
}

}  // namespace

SplitEvaluation::SplitEvaluation(const std::string& checkpoint, const std::string& split,
                                 const std::string& task, const std::vector<std::string>& overrides,
                                 const ProcessGrid& grid, bool calibrates)
    : activations_("activations", 0, grid.device()),
      loaded_(checkpoint, grid, overrides, calibrates),
      task_(task_of(loaded_.model(), task)) {
  const Recipe& recipe = loaded_.recipe();
  ImageDataset data = read_examples(recipe.data, recipe.image, grid.world(), task_->name() != "classify");
  number_as(loaded_.class_names(), loaded_.checkpoint(), data, data.split(split));
  ImageSplit chosen = examples_for(task_->name(), std::move(data.split(split)), data.class_names);
  require(!chosen.examples.empty(), "the {} split is empty", split);
  texts_ = chosen.examples;
  tokens_ = tokenize(task_->name(), std::move(chosen), loaded_.tokenizer(), recipe.data);
  evaluator_ = std::make_unique<Evaluator>(
      loaded_.model(), *task_, tokens_, recipe, activations_, grid,
      calibrates ? std::optional(static_cast<std::uint64_t>(recipe.run.seed)) : std::nullopt);
  evaluator_->plan();
  activations_.seal(std::size_t{1} << 20);
}

}  // namespace conclave
