#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "recipes/commands/commands.h"
#include "recipes/evaluator.h"
#include "recipes/loaded_model.h"

namespace conclave::commands {

int evaluate(const EvaluateArguments& arguments, const Surroundings& surroundings,
             const MpiSession& session) {
  auto world = session.world();
  set_threads(0, surroundings, *world);
  const ProcessGrid grid(std::move(world), 0);
  LoadedModel loaded(find_checkpoint(arguments.checkpoint), grid);
  // Data paths may differ here from where the model was trained.
  const Recipe recipe = parse_recipe(to_toml(loaded.recipe()), arguments.checkpoint, arguments.overrides);
  const Corpus corpus =
      load_corpus(recipe.data, grid.world(), surroundings.cache_directory, loaded.tokenizer());
  require(corpus.class_names == loaded.class_names(),
          "the data has other classes ({}) than the model was trained on ({})", corpus.class_names.size(),
          loaded.class_names().size());
  const TokenizedSplit& split = arguments.split == "train"        ? corpus.train
                                : arguments.split == "validation" ? corpus.validation
                                                                  : corpus.test;
  require(split.size() > 0, "the {} split is empty", arguments.split);
  Arena activations("activations");
  Evaluator evaluator(loaded.model(), split, static_cast<Index>(corpus.class_names.size()),
                      recipe.train.batch_tokens, activations, grid);
  evaluator.plan();
  activations.seal(std::size_t{1} << 20);
  const Evaluation result = evaluator.run();
  if (grid.world().rank() == 0) {
    const nlohmann::ordered_json summary{
        {"checkpoint", find_checkpoint(arguments.checkpoint)},
        {"step", loaded.step()},
        {"split", arguments.split},
        {"texts", result.sequences},
        {"accuracy", result.accuracy},
        {"macro_f1", result.macro_f1},
        {"loss", result.loss},
        {"utilization", result.utilization},
        {"batch_utilization", result.batch_utilization},
        {"experts_per_token", result.mean_experts()},
        {"tokens_per_second", static_cast<double>(result.tokens) / result.seconds}};
    fmt::print("{}\n", summary.dump());
  }
  return 0;
}

}  // namespace conclave::commands
