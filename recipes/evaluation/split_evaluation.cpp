#include "recipes/evaluation/split_evaluation.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <utility>

namespace conclave {
namespace {

Task* task_of(Model& model, const std::string& name) {
  std::string names;
  for (Task* task : model.tasks()) {
    if (name.empty() || task->name() == name) return task;
    names.append(names.empty() ? "" : ", ").append(task->name());
  }
  fail("--task {}: the model was trained to {}", name, names);
}

// A table of texts as one split, with the recipe's column names but none of the settings of its source.
DataRecipe table_of(const DataRecipe& data, const std::string& file) {
  DataRecipe table;
  table.source = "table";
  table.train = file;
  table.text_column = data.text_column;
  table.label_column = data.label_column;
  table.skip_bad = data.skip_bad;
  table.max_length = data.max_length;
  return table;
}

}  // namespace

SplitEvaluation::SplitEvaluation(const std::string& checkpoint, const EvaluatedData& examples,
                                 const std::string& task, const std::vector<std::string>& overrides,
                                 const ProcessGrid& grid, bool calibrates)
    : activations_("activations", 0, grid.device()), loaded_(checkpoint, grid, overrides, calibrates) {
  const Recipe& recipe = loaded_.recipe();
  const Task* const first = parts_.emplace_back(Part{task_of(loaded_.model(), task), {}, {}, {}}).task;
  for (Task* other : loaded_.model().tasks())
    if (calibrates && other != first) parts_.emplace_back(Part{other, {}, {}, {}});
  const bool of_table = !examples.table.empty();
  require(!of_table || (traits_of(first->kind()).classes && recipe.data.has_texts()),
          "{}: a table has texts and their classes, which this model's task \"{}\" does not read",
          loaded_.checkpoint(), first->name());
  const DataRecipe source = of_table ? table_of(recipe.data, examples.table) : recipe.data;
  const bool captions =
      std::ranges::any_of(parts_, [](const Part& part) { return traits_of(part.task->kind()).captions; });
  ImageDataset data = read_examples(source, recipe.image, grid.world(), captions);
  number_labels(data, {loaded_.class_names(), loaded_.checkpoint()});
  ImageSplit& split = of_table ? data.train : data.split(examples.split);
  if (of_table && loaded_.tokenizer()->separator())  // a tab divides the two texts, as in `conclave predict`
    for (TextExample& example : split.examples) {
      TextExample pair = text_example(example.text, true);
      example.text = std::move(pair.text);
      example.pair = std::move(pair.pair);
    }
  Recipe read = recipe;
  read.data = source;
  for (Part& part : parts_) {
    const TaskKind kind = part.task->kind();
    ImageSplit chosen =
        examples_for(kind, &part == &parts_.back() ? std::move(split) : split, data.class_names);
    require(!chosen.examples.empty(), "{}: no examples",
            of_table ? examples.table : "the " + examples.split + " split");
    part.texts = chosen.examples;
    part.tokens = tokenize(kind, std::move(chosen), loaded_.tokenizer(), recipe.data);
    part.evaluator.emplace(
        loaded_.model(), *part.task, part.tokens, read, activations_, grid,
        calibrates ? std::optional(static_cast<std::uint64_t>(recipe.run.seed)) : std::nullopt);
    part.evaluator->plan();
  }
  activations_.seal(std::size_t{1} << 20);
}

void SplitEvaluation::observe(Index batches, const std::function<void()>& after_each) {
  for (Index batch = 0; batch < batches; ++batch) {
    bool more = false;
    for (Part& part : parts_) more |= part.evaluator->observe(batch);
    if (!more) return;
    after_each();
  }
}

}  // namespace conclave
