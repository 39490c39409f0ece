#include "recipes/split_evaluation.h"

#include <utility>

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

}  // namespace

SplitEvaluation::SplitEvaluation(const std::string& checkpoint, const std::string& split,
                                 const std::string& task, const std::vector<std::string>& overrides,
                                 const ProcessGrid& grid, bool calibrates)
    : activations_("activations", 0, grid.device()),
      loaded_(checkpoint, grid, overrides, calibrates),
      task_(task_of(loaded_.model(), task)) {
  const Recipe& recipe = loaded_.recipe();
  ImageDataset data = read_examples(recipe.data, recipe.image, grid.world());
  expect_same_classes(loaded_.checkpoint(), loaded_.class_names(), data.class_names);
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
