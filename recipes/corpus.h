// What a recipe's [data] section stands for: the examples, the tokenizer trained on the train split's texts,
// and the three splits as token sequences and images.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "data/dataset.h"
#include "data/tokenizer.h"
#include "parallel/communicator.h"
#include "recipes/models/trunk.h"
#include "recipes/recipe.h"

namespace conclave {

/// What one task is trained and judged on.
struct TaskSplits {
  TokenizedSplit train, validation, test;
};

struct Corpus {
  std::vector<std::string> class_names;
  std::optional<Tokenizer> tokenizer;  ///< none where there are no texts
  std::vector<TaskSplits> tasks;       ///< in the order of the recipe's [tasks]

  /// What a model of these examples is built for.
  ModelSizes sizes(const DataRecipe& recipe) const;
};
/// The same of a model whose corpus is not at hand.
ModelSizes model_sizes(const DataRecipe& recipe, std::size_t classes,
                       const std::optional<Tokenizer>& tokenizer, const ImageShape& image);

/// Throws Error, which names the first difference, unless the data has the classes on which the model of
/// `checkpoint` was trained: labels are their numbers.
void expect_same_classes(const std::string& checkpoint, const std::vector<std::string>& of_model,
                         const std::vector<std::string>& of_data);

/// What is around that which its images show, and takes the place of what is cut off them in training. Black
/// of photographs, which have none: nothing of theirs is made up.
Rgb background_of(const DataRecipe& data);

/// Collective. Reads texts and images only; `captions`: what images show, too, where nothing shows it beside
/// them. Rank 0 warns where some were left out as bad, and of what may not be meant; throws Error where those
/// left out are not as many on every rank.
ImageDataset read_examples(const DataRecipe& data, const ImageRecipe& image, Communicator& world,
                           bool captions);
/// What `task` is given of a split's examples: those that have an image, once for each of their captions,
/// with what it shows as their texts; or all as they are, to classify.
ImageSplit examples_for(std::string_view task, ImageSplit split, const std::vector<std::string>& class_names);
/// Those as `task` reads them, which may be by their images alone.
TokenizedSplit tokenize(std::string_view task, ImageSplit split, const std::optional<Tokenizer>& tokenizer,
                        const DataRecipe& data);

/// Collective. Without `tokenizer`, and where a task has texts, rank 0 trains one (or finds it in
/// `cache_directory`) and all ranks take it.
Corpus load_corpus(const Recipe& recipe, Communicator& world, const std::string& cache_directory,
                   std::optional<Tokenizer> tokenizer = std::nullopt);

}  // namespace conclave
