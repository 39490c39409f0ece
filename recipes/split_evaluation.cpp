#include "recipes/split_evaluation.h"

#include <utility>

namespace conclave {

SplitEvaluation::SplitEvaluation(const std::string& checkpoint, const std::string& split,
                                 const std::vector<std::string>& overrides, const ProcessGrid& grid)
    : checkpoint_(find_checkpoint(checkpoint)),
      loaded_(checkpoint_, grid, overrides),
      activations_("activations", 0, grid.device()) {
  const Recipe& recipe = loaded_.recipe();
  ImageDataset data = read_examples(recipe.data, recipe.image, grid.world().rank() == 0);
  require(data.class_names == loaded_.class_names(),
          "the data has other classes ({}) than the model was trained on ({})", data.class_names.size(),
          loaded_.class_names().size());
  ImageSplit& chosen = split == "train" ? data.train : split == "validation" ? data.validation : data.test;
  require(!chosen.examples.empty(), "the {} split is empty", split);
  texts_ = chosen.examples;
  tokens_ = tokenize(std::move(chosen), loaded_.tokenizer(), recipe.data.max_length);
  evaluator_ = std::make_unique<Evaluator>(loaded_.model(), *loaded_.model().classifier(), tokens_,
                                           static_cast<Index>(data.class_names.size()),
                                           recipe.train.batch_tokens, activations_, grid);
  evaluator_->plan();
  activations_.seal(std::size_t{1} << 20);
}

}  // namespace conclave
